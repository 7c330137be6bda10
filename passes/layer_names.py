"""Layers that a recipe names."""

from collections.abc import Iterable
from difflib import get_close_matches

from passes.errors import QuantizationError

__all__ = ["require_layer"]


def require_layer(name: str, known: Iterable[str], who: str) -> None:
    """Refuse the name of a layer that there is not.

    Raises:
        QuantizationError: says ``who`` named it, and the nearest name or all of them.
    """
    known = list(known)
    if name in known:
        return
    nearest = get_close_matches(name, known, 1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"the layers are {', '.join(known)}"
    raise QuantizationError(f"{who}: no layer is named {name!r}; {hint}")
