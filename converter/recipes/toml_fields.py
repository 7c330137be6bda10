"""Build recipes and passes from TOML values. Every name and type is checked against the dataclass."""

import dataclasses
from collections.abc import Iterable
from difflib import get_close_matches
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from passes.errors import ConvertError, RecipeError

__all__ = ["build", "nearest"]


def build(kind: Any, values: Any, where: str) -> Any:
    """Build an instance of a dataclass from TOML values.

    Args:
        kind: The dataclass.
        values: Table of field values.
        where: Location of the table, for errors.

    Raises:
        RecipeError: The values are no table, a field does not exist, or a value has another type or is out of range.
    """
    if not isinstance(values, dict):
        raise RecipeError(f"{where}: expected a table, not {values!r}")
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    arguments = {}
    for key, value in values.items():
        if key not in names:
            raise RecipeError(f"{where}: no field is named {key!r}; {nearest(key, names)}")
        arguments[key] = _checked(value, hints[key], f"{where}: {key}")
    try:
        return kind(**arguments)
    except (ConvertError, ValueError, TypeError) as error:
        raise RecipeError(f"{where}: {error}") from error


def _checked(value: Any, hint: Any, where: str) -> Any:
    origin, options = get_origin(hint), get_args(hint)
    if origin in {Union, UnionType}:
        matching = [option for option in options if option is not type(None) and _fits(value, option)]
        if not matching:
            raise RecipeError(f"{where} cannot be {value!r}")
        return _checked(value, matching[0], where)
    if origin is Literal:
        if value not in options:
            raise RecipeError(f"{where} must be one of {', '.join(map(repr, options))}, not {value!r}")
        return value
    if not _fits(value, hint):
        raise RecipeError(f"{where} cannot be {value!r}")
    if origin is tuple:
        return tuple(value) if options and isinstance(options[0], type) else value
    return float(value) if hint is float else value


def _fits(value: Any, hint: Any) -> bool:
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in options
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return False
        return not isinstance(options[0], type) or all(_fits(item, options[0]) for item in value)
    if origin is not None:
        return isinstance(value, dict) and all(_fits(item, options[1]) for item in value.values())
    if hint in {int, float} and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, (int, float))
    return isinstance(value, hint) if isinstance(hint, type) else True


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown name: the nearest known name and a list of all."""
    close = get_close_matches(name, list(known), 1)
    listed = f"there are: {', '.join(known)}"
    return f"did you mean {close[0]!r}? {listed}" if close else listed
