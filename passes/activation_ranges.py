"""Activation ranges: the 8-bit grid of every tensor the target computes on, chosen from calibration histograms."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from passes.base import Change, CoveredRange, GraphPass, Model, Needs, PassReport, Stage, Stats
from passes.numerics.grid import ActivationGrid
from passes.numerics.histogram import Histogram
from passes.numerics.ranges import clipped, entropy, minmax, mse, percentile
from passes.placement import Placement, Rules, place

__all__ = ["ActivationRanges"]


@dataclass(frozen=True)
class ActivationRanges(GraphPass):
    """Choose activation ranges.

    Attributes:
        method: "mse" minimises the expected squared error, "percentile" cuts the tails, "entropy" minimises the
            divergence, "minmax" cuts nothing.
        percentile: share of values kept, in percent, for that method.
    """

    name: ClassVar[str] = "activation_ranges"
    stage: ClassVar[Stage] = Stage.RANGES

    method: Literal["mse", "percentile", "entropy", "minmax"] = "mse"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile must be above 50 and at most 100, not {self.percentile}")

    def needs(self, model: Model) -> Needs:
        """A histogram of every tensor that has a grid of its own."""
        return Needs(histograms=frozenset(self._placement(model).tensors.values()))

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Fill `Model.ranges`."""
        placement = self._placement(model)
        covered: dict[str, CoveredRange] = {}
        for source in placement.tensors.values():
            if source not in covered:
                bounds = placement.bounds.get(source, (-math.inf, math.inf))
                covered[source] = self._cover(stats.histograms[source], bounds, model.rules)
        ranges = {tensor: covered[source] for tensor, source in placement.tensors.items()}
        model.ranges = {tensor: range_.grid for tensor, range_ in ranges.items()}
        changed, skipped = {}, {}
        for name, layer in model.layers().items():
            grid = model.ranges.get(layer.input)
            if name in placement.integer and grid is not None:
                changed[name] = Change(f"input quantized over {grid.low:.4g} to {grid.high:.4g}")
            else:
                skipped[name] = model.kept.get(name) or placement.reasons.get(name, "its input stays in float")
        return PassReport(self.name, changed, skipped, ranges=ranges)

    def _placement(self, model: Model) -> Placement:
        return place(model.graph, model.rules, frozenset(model.layers()) - frozenset(model.kept))

    def _cover(self, histogram: Histogram, bounds: tuple[float, float], rules: Rules) -> CoveredRange:
        """A grid for a tensor that a clamp keeps within ``bounds``, and what calibration saw of it."""
        least, most = bounds
        low, high = self._range(histogram, symmetric=rules.symmetric)
        low, high = max(low, min(least, 0.0)), min(high, max(most, 0.0))
        grid = ActivationGrid.of(low, high, signed=rules.signed, symmetric=rules.symmetric)
        half = 0.5 * float(grid.scale)
        first, last = grid.ends[0] - half, grid.ends[1] + half
        lost = clipped(histogram, first if least < first else -math.inf, last if most > last else math.inf)
        return CoveredRange(grid, max(histogram.min, least), min(histogram.max, most), lost)

    def _range(self, histogram: Histogram, *, symmetric: bool) -> tuple[float, float]:
        if self.method == "minmax":
            return minmax(histogram)
        if self.method == "percentile":
            return percentile(histogram, self.percentile)
        if self.method == "entropy":
            return entropy(histogram, 8)
        return mse(histogram, 8, symmetric)
