"""Checks of the types of a caller's arguments. The messages name the parameter, as those of `passes.errors` do."""

from collections.abc import Iterable
from numbers import Integral, Real

from passes.errors import UsageError, argument

__all__ = ["require_names", "require_number", "require_type", "whole"]


def require_type(name: str, value: object, kinds: type | tuple[type, ...], wanted: str) -> None:
    """Refuse a value of another type.

    Args:
        name: Name of the parameter.
        value: The caller's value.
        kinds: Types that are accepted.
        wanted: Description of what to give, for the message.

    Raises:
        UsageError: The value has another type.
    """
    if not isinstance(value, kinds):
        raise UsageError(f"`{name}=` is of type {type(value).__name__}; give {wanted}")


def whole(name: str, value: object) -> int:
    """Return an integer as Python's type. NumPy's integers are accepted.

    Raises:
        UsageError: The value is not an integer.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UsageError(f"{argument(**{name: value})} is not an integer")
    return int(value)


def require_number(name: str, value: object) -> None:
    """Refuse what is not a number.

    Raises:
        UsageError: The value is not a number.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UsageError(f"{argument(**{name: value})} is not a number")


def require_names(name: str, value: object) -> None:
    """Refuse what is not names of layers: a list of texts, or a mapping from texts.

    Raises:
        UsageError: The value is a single text, or it holds something other than texts.
    """
    if isinstance(value, str):
        raise UsageError(f"{argument(**{name: value})} is a single text; give a list: {argument(**{name: [value]})}")
    if not isinstance(value, Iterable):
        raise UsageError(f"{argument(**{name: value})} is not a list of layers")
    for each in value:
        if not isinstance(each, str):
            raise UsageError(f"{argument(**{name: each})}: a layer is named by a text, not by {type(each).__name__}")
