"""Activation ranges: the 8-bit grid of every tensor the target computes on, chosen from calibration histograms."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from passes.base import Change, GraphPass, Model, Needs, PassReport, Stage, Stats
from passes.numerics.grid import ActivationGrid
from passes.numerics.histogram import Histogram
from passes.numerics.ranges import entropy, minmax, mse, percentile
from passes.placement import Placement, place
from passes.shared_grids import shared_grids

__all__ = ["ActivationRanges", "placement_of", "spread"]


def placement_of(model: Model) -> Placement:
    """Which tensors of the model are to be quantized."""
    left = {*model.kept, *model.float_activations}
    return place(model.graph, model.rules, frozenset(model.layers()) - left)


def spread(placement: Placement, grids: Mapping[str, ActivationGrid]) -> dict[str, ActivationGrid]:
    """The grid of every quantized tensor, from those of the tensors that have one of their own."""
    factors = placement.factors
    return {tensor: grids[source].scaled(factors.get(tensor, 1.0)) for tensor, source in placement.tensors.items()}


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
        return Needs(histograms=frozenset(placement_of(model).tensors.values()))

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Fill `Model.ranges`."""
        placement = placement_of(model)
        grids: dict[str, ActivationGrid] = {}
        for source in placement.tensors.values():
            if source not in grids:
                low, high = self._range(stats.histograms[source], symmetric=model.rules.symmetric)
                least, most = placement.bounds.get(source, (low, high))
                low, high = max(low, min(least, 0.0)), min(high, max(most, 0.0))
                grids[source] = ActivationGrid.of(low, high, signed=model.rules.signed, symmetric=model.rules.symmetric)
        grids = shared_grids(model.graph, placement, grids, symmetric=model.rules.symmetric)
        model.ranges = spread(placement, grids)
        changed, skipped = {}, {}
        for name, layer in model.layers().items():
            grid = model.ranges.get(layer.input)
            if name in placement.integer and grid is not None:
                changed[name] = Change(f"input quantized over {grid.low:.4g} to {grid.high:.4g}")
            else:
                reason = model.kept.get(name) or model.float_activations.get(name)
                skipped[name] = reason or placement.reasons.get(name, "its input stays in float")
        return PassReport(self.name, changed, skipped)

    def _range(self, histogram: Histogram, *, symmetric: bool) -> tuple[float, float]:
        if self.method == "minmax":
            return minmax(histogram)
        if self.method == "percentile":
            return percentile(histogram, self.percentile)
        if self.method == "entropy":
            return entropy(histogram, 8)
        return mse(histogram, 8, symmetric)
