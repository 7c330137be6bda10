"""Activation ranges: the 8-bit grid of every quantized activation, chosen from calibration histograms."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import onnx_graphsurgeon as gs

from passes.activations.pixels import pixel_grid
from passes.activations.placement import Placement, place
from passes.activations.shared_grids import shared_grids
from passes.activations.unfused import keep_apart
from passes.activations.unrounded import split_readers
from passes.base import GraphPass, Stage
from passes.ir.model import UNREACHED, Model
from passes.ir.rules import needs_integers
from passes.numerics.activation_range_search import clipped, entropy, minmax, mse, percentile
from passes.numerics.grid import ActivationGrid
from passes.numerics.histogram import Histogram
from passes.report import Change, CoveredRange, PassReport
from passes.statistics import Needs, Stats

__all__ = ["ActivationRanges", "placement_of", "spread"]


def placement_of(model: Model) -> Placement:
    """Decide which tensors of the model are quantized."""
    float_layers = {*model.float_reasons, *model.float_activations}
    layers = frozenset(model.layers()) - float_layers
    return place(model.graph, model.rules, layers, frozenset(model.float_activations))


def spread(placement: Placement, grids: Mapping[str, ActivationGrid]) -> dict[str, ActivationGrid]:
    """Return the grid of every quantized tensor, given the grids of the tensors that have their own."""
    factors = placement.factors
    return {tensor: grids[source].scaled(factors.get(tensor, 1.0)) for tensor, source in placement.tensors.items()}


@dataclass(frozen=True)
class ActivationRanges(GraphPass):
    """Choose activation ranges.

    Attributes:
        method: "mse" minimises the expected squared error, "percentile" clips the tails, "entropy" minimises the
            divergence, "minmax" clips nothing.
        percentile: Percentage of the values inside the range, for the method of that name.

    Raises:
        ValueError: ``percentile`` is not above 50 and at most 100.
    """

    name: ClassVar[str] = "activation_ranges"
    stage: ClassVar[Stage] = Stage.RANGES

    method: Literal["mse", "percentile", "entropy", "minmax"] = "mse"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile must be above 50 and at most 100, not {self.percentile}")

    def requires(self, model: Model) -> None:
        """Require an integer kernel for every layer, if the target needs integers.

        Raises:
            TargetError: A layer has none. The message names it and what to do.
        """
        for layer in model.layers_to_quantize().values():
            reason = model.rules.why_no_kernel(layer.op, len(layer.weight_shape), layer.groups)
            if reason and not model.rules.weight_only:
                raise needs_integers(layer.name, reason)

    def needs(self, model: Model) -> Needs:
        """Request a histogram of every tensor that has its own grid."""
        return Needs(histograms=frozenset(placement_of(model).tensors.values()))

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Fill `Model.activation_qparams`. Layers that no value reaches stay in float."""
        placement = _reached(model, stats)
        tensors = model.graph.tensors()
        grids = {source: self._grid(tensors[source], placement, model, stats) for source in placement.tensors.values()}
        grids = shared_grids(model.graph, placement, grids, symmetric=model.rules.symmetric)
        model.activation_qparams = spread(placement, grids)
        covered = {
            tensor: _covered(
                model.activation_qparams[tensor],
                stats.histograms[source],
                placement.bounds.get(source, (-math.inf, math.inf)),
                placement.factors.get(tensor, 1.0),
            )
            for tensor, source in placement.tensors.items()
        }
        changed, skipped = {}, {}
        for name, layer in model.layers().items():
            grid = model.activation_qparams.get(layer.input)
            if name in placement.integer and grid is not None:
                changed[name] = Change(f"input quantized over {grid.low:.4g} to {grid.high:.4g}")
            else:
                reason = model.float_reasons.get(name) or model.float_activations.get(name)
                skipped[name] = reason or placement.reasons.get(name, "its input stays in float")
        model.activation_qparams = split_readers(model.graph, model.activation_qparams, placement.integer)
        keep_apart(model.graph, model.rules, model.activation_qparams, placement.integer)
        return PassReport(self.name, changed, skipped, ranges=covered)

    def _grid(self, tensor: gs.Tensor, placement: Placement, model: Model, stats: Stats) -> ActivationGrid:
        """Return the grid of a tensor that has its own, within the bounds of an absorbed clamp.

        Pixels have a grid of their own.
        """
        source, pixels = str(tensor.name), pixel_grid(tensor)
        if pixels is not None and not model.rules.signed:
            return pixels[1]
        low, high = self._range(stats.histograms[source], symmetric=model.rules.symmetric)
        least, most = placement.bounds.get(source, (low, high))
        low, high = max(low, min(least, 0.0)), min(high, max(most, 0.0))
        return ActivationGrid.of(low, high, signed=model.rules.signed, symmetric=model.rules.symmetric)

    def _range(self, histogram: Histogram, *, symmetric: bool) -> tuple[float, float]:
        if self.method == "minmax":
            return minmax(histogram)
        if self.method == "percentile":
            return percentile(histogram, self.percentile)
        if self.method == "entropy":
            return entropy(histogram, 8)
        return mse(histogram, 8, symmetric)


def _reached(model: Model, stats: Stats) -> Placement:
    """Decide which tensors are quantized, without those that were empty in every run, such as a state at its start.

    A layer that reads or writes such a tensor gets a reason to stay in float.
    """
    while True:
        placement, layers = placement_of(model), model.layers()
        empty = {
            tensor
            for tensor, source in placement.tensors.items()
            if source not in stats.histograms or not stats.histograms[source].count
        }
        nodes = {node.name for node in model.graph.nodes if any(tensor.name in empty for tensor in node.outputs)}
        nodes |= {name for name in placement.integer if name in layers and layers[name].input in empty}
        unreached = [name for name in placement.integer & nodes if name in layers]
        if not unreached:
            tensors = {tensor: source for tensor, source in placement.tensors.items() if tensor not in empty}
            return replace(placement, tensors=tensors, integer=placement.integer - nodes)
        model.float_reasons |= dict.fromkeys(unreached, UNREACHED)


def _covered(grid: ActivationGrid, histogram: Histogram, bounds: tuple[float, float], factor: float) -> CoveredRange:
    """Compare a tensor's grid with the values that calibration measured.

    Args:
        grid: Grid of the tensor.
        histogram: Histogram of the tensor whose grid it uses.
        bounds: Lower and upper bound of a clamp on the histogram's tensor.
        factor: The tensor over the histogram's tensor.
    """
    least, most = bounds
    own = grid.scaled(1 / factor)
    half = 0.5 * float(own.scale)
    first, last = own.ends[0] - half, own.ends[1] + half
    lost = clipped(histogram, first if least < first else -math.inf, last if most > last else math.inf)
    return CoveredRange(grid, factor * max(histogram.min, least), factor * min(histogram.max, most), lost)
