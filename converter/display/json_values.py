"""Values as JSON can hold them."""

import math
from typing import Any

__all__ = ["finite"]


def finite(value: Any) -> Any:
    """The same value with None in place of every float that JSON has no word for: infinity and NaN."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
