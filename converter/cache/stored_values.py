"""Values as named arrays, which a file without code in it holds, and back.

`pack` takes apart what is listed in `_KINDS`, with all that it contains: arrays become arrays of the file, and numbers,
texts and the names of fields one JSON text. `unpack` makes nothing but these kinds.
"""

import dataclasses
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from passes.base import Solution
from passes.numerics.channels import ChannelStatistics
from passes.numerics.grid import Grid
from passes.numerics.histogram import Histogram
from passes.numerics.moments import Moments
from passes.numerics.sparsity import Pruned
from passes.statistics import Stats

__all__ = ["pack", "unpack"]

_KINDS: Mapping[str, type] = MappingProxyType(
    {kind.__name__: kind for kind in (ChannelStatistics, Grid, Histogram, Moments, Pruned, Solution, Stats)}
)
_FORM = "form"  # array that holds the JSON text

Arrays = dict[str, NDArray[Any]]


def pack(value: Any) -> Arrays:
    """Return a value as arrays.

    Raises:
        TypeError: The value contains something that is no number, text, array, tuple, mapping, or kind of the list.
    """
    arrays: Arrays = {}
    form = _taken_apart(value, arrays)
    return {_FORM: np.array(json.dumps(form)), **arrays}


def unpack(arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Return the value that `pack` made arrays of.

    Raises:
        ValueError: The arrays are not of `pack`.
    """
    try:
        return _put_together(json.loads(str(arrays[_FORM])), arrays)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no stored value: {type(error).__name__}: {error}") from error


def _taken_apart(value: Any, arrays: Arrays) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}  # exact, infinite or not
    if isinstance(value, np.generic):
        return _taken_apart(value.item(), arrays)
    if isinstance(value, np.ndarray):
        name = f"array{len(arrays)}"
        arrays[name] = value
        return {"array": name}
    if isinstance(value, tuple):
        return {"tuple": [_taken_apart(each, arrays) for each in value]}
    if isinstance(value, Mapping):
        return {"entries": [[_taken_apart(key, arrays), _taken_apart(each, arrays)] for key, each in value.items()]}
    if _KINDS.get(type(value).__name__) is not type(value):
        raise TypeError(f"{type(value).__name__} is not stored")
    fields = {name: _taken_apart(each, arrays) for name, each in vars(value).items()}
    return {"kind": type(value).__name__, "fields": fields}


def _put_together(form: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    if not isinstance(form, dict):
        return form
    if "float" in form:
        return float.fromhex(form["float"])
    if "array" in form:
        return arrays[form["array"]]
    if "tuple" in form:
        return tuple(_put_together(each, arrays) for each in form["tuple"])
    if "entries" in form:
        return {_put_together(key, arrays): _put_together(each, arrays) for key, each in form["entries"]}
    kind = _KINDS[form["kind"]]
    fields = {name: _put_together(each, arrays) for name, each in form["fields"].items()}
    if dataclasses.is_dataclass(kind):
        return kind(**fields)
    made: Any = object.__new__(kind)
    vars(made).update(fields)
    return made
