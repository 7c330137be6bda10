"""Names of a model as the page shows them: visible, and no property of a JavaScript object."""

from collections.abc import Mapping
from typing import Any

from converter.display.plain import one_line

__all__ = ["shown"]

# Vega looks values up in plain objects, so these names would find what every object has.
_PROPERTIES = frozenset(
    [
        "__proto__",
        "constructor",
        "hasOwnProperty",
        "isPrototypeOf",
        "prototype",
        "toLocaleString",
        "toString",
        "valueOf",
    ]
)
_NOTHING_WIDE = "\u200b"


def shown(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts in which every text is one visible line. The recipe stays as it is, since it can be run again."""
    return {key: value if key == "recipe" else _shown(value) for key, value in facts.items()}


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return one_line(value) + (_NOTHING_WIDE if value in _PROPERTIES else "")
    if isinstance(value, Mapping):
        return {_shown(key): _shown(each) for key, each in value.items()}
    return [_shown(each) for each in value] if isinstance(value, list | tuple) else value
