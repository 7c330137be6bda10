"""What a section of the page is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["SHORT_NAME", "Section", "Spec", "height_of"]

Spec = dict[str, Any]
_ROW = 18  # pixels of a row that bears a name

# Names are longest where they say least: at the front, `features.3.` of every layer of a block.
SHORT_NAME = "length(datum.label) > 22 ? '…' + slice(datum.label, -21) : datum.label"


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        name: of its template and of its place in the page.
        title: its heading.
        values: what the template shows, besides the facts.
        charts: Vega-Lite specifications by the id of the element that they are drawn in.
    """

    name: str
    title: str
    values: Mapping[str, Any] = field(default_factory=dict)
    charts: Mapping[str, Spec] = field(default_factory=dict)


def height_of(rows: int) -> int:
    """Pixels for that many rows."""
    return _ROW * max(rows, 1)
