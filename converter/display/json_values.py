"""Conversion of values to JSON values."""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["fields_as_json", "finite"]


def fields_as_json(value: "DataclassInstance") -> dict[str, Any]:
    """Return every field of a dataclass as a JSON value. Infinity and NaN become None."""
    fields: dict[str, Any] = finite(asdict(value))
    return fields


def finite(value: Any) -> Any:
    """Return the value with None in place of infinity and NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
