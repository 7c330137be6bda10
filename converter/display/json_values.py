"""Conversion of values to JSON values."""

import math
from typing import Any

__all__ = ["finite"]


def finite(value: Any) -> Any:
    """Return the value with None in place of infinity and NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
