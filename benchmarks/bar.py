"""A measured figure and its bar, the limit that it has to meet."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from converter.runtime.session import Progress

__all__ = ["Bar", "Benchmark"]


@dataclass(frozen=True)
class Bar:
    """One measured figure with its bar.

    Attributes:
        what: Name of the figure.
        measured: Value in ``unit``.
        limit: The bar. None for a figure without a bar, which is shown for comparison.
        unit: Unit of the value and of the bar.
        at_least: Whether ``limit`` is the least allowed value. Otherwise it is the largest.
        note: What the figure was computed from.
    """

    what: str
    measured: float
    limit: float | None
    unit: str
    at_least: bool = False
    note: str = ""

    @property
    def missed_by(self) -> float:
        """Distance from the bar in ``unit`` if the bar is missed. 0 if it holds."""
        if self.limit is None:
            return 0.0
        return max(0.0, self.limit - self.measured if self.at_least else self.measured - self.limit)

    @property
    def holds(self) -> bool | None:
        """Whether the bar holds. None without a bar."""
        return None if self.limit is None else self.missed_by <= 1e-9  # 0.2 points may be 0.2000000001 in floats

    def to_json(self) -> dict[str, Any]:
        """Return every field, and whether the bar holds."""
        return asdict(self) | {"holds": self.holds}


Benchmark = Callable[[Progress], Iterator[Bar]]
"""A function that measures its bars one after the other. It raises MissingData if its data are missing."""
