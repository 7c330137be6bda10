"""Checks of the layer names in a recipe."""

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher, get_close_matches

from passes.errors import UnknownLayerError

__all__ = ["require_known"]

_LISTED = 6  # most names in a message


def require_known(names: Iterable[str], known: Iterable[str], who: str) -> None:
    """Refuse names of layers that do not exist.

    Args:
        names: Names to check.
        known: Names of all layers.
        who: The user of the names, for the message.

    Raises:
        UnknownLayerError: A name is not known. The message has the first such name, and the nearest known name, all
            known names or the nearest of many.
    """
    known = list(known)
    for name in names:
        if name not in known:
            raise UnknownLayerError(who, name, f"no layer is named {name!r}; {_hint(name, known)}")


def _hint(name: str, known: Sequence[str]) -> str:
    if "," in name and set(name.split(",")) <= set(known):
        return "name them one at a time"
    close = get_close_matches(name, known, 1) or [other for other in known if name in other]
    if len(close) == 1:
        return f"did you mean {close[0]!r}?"
    if len(known) <= _LISTED:
        return f"the layers are {', '.join(known)}"
    nearest = sorted(known, key=lambda other: (name not in other, -SequenceMatcher(None, name, other).ratio()))
    return f"the nearest are {', '.join(nearest[:_LISTED])}, and {len(known) - _LISTED} more; `inspect` lists them"
