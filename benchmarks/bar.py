"""A bar and what was measured against it."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from converter.runtime.session import Progress

__all__ = ["Bar", "Benchmark"]


@dataclass(frozen=True)
class Bar:
    """One figure; its bar is the most it may be, or the least.

    what       what was measured
    measured   in ``unit``
    limit      None for a figure without a bar, shown for comparison
    at_least   whether ``limit`` is the least rather than the most
    note       what the figure was made from
    """

    what: str
    measured: float
    limit: float | None
    unit: str
    at_least: bool = False
    note: str = ""

    @property
    def missed_by(self) -> float:
        """How far on the wrong side of the bar, in ``unit``; 0 where the bar holds."""
        if self.limit is None:
            return 0.0
        return max(0.0, self.limit - self.measured if self.at_least else self.measured - self.limit)

    @property
    def holds(self) -> bool | None:
        """None without a bar."""
        return None if self.limit is None else self.missed_by <= 1e-9  # 0.2 points are 0.2000000001 in floats

    def to_json(self) -> dict[str, Any]:
        """Every field, and whether the bar holds."""
        return asdict(self) | {"holds": self.holds}


Benchmark = Callable[[Progress], Iterator[Bar]]
"""Measures its bars one after the other; raises MissingData where what it needs is not there."""
