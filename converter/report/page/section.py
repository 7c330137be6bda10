"""Data structure of one section of the page."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["MOST_ROWS", "SHORT_NAME", "Section", "Spec", "height_of"]

Spec = dict[str, Any]
_ROW = 18  # pixels of a row with a name
MOST_ROWS = 40
"""Rows of a chart. The others are in its table only."""

# Long names are cut at the front: `features.3.` is the same for every layer of a block.
SHORT_NAME = "length(datum.label) > 22 ? '…' + slice(datum.label, -21) : datum.label"


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        name: Name of the template, and id of the section in the page.
        title: Heading.
        values: Values for the template, in addition to the facts.
        charts: Vega-Lite specifications. The key is the id of the element in which the chart is drawn.
    """

    name: str
    title: str
    values: Mapping[str, Any] = field(default_factory=dict)
    charts: Mapping[str, Spec] = field(default_factory=dict)


def height_of(rows: int) -> int:
    """Return the height in pixels of a chart with so many rows."""
    return _ROW * max(rows, 1)
