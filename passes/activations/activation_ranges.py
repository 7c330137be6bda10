"""Activation ranges: the grid of every quantized activation, chosen from calibration histograms."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import onnx_graphsurgeon as gs

from passes.activations.pixels import pixel_grid
from passes.activations.placement import Placement, place
from passes.activations.shared_grids import shared_grids
from passes.activations.unfused import keep_apart
from passes.activations.unrounded import split_readers
from passes.activations.widths import convert_widths, silu_sigmoids, widths
from passes.base import GraphPass, Stage
from passes.errors import TargetError
from passes.ir.model import UNREACHED, Model
from passes.ir.rules import needs_integers
from passes.ir.selectors import select
from passes.numerics.activation_range_search import clipped, entropy, minmax, mse, percentile
from passes.numerics.grid import ActivationGrid
from passes.numerics.histogram import Histogram
from passes.report import Change, CoveredRange, PassReport
from passes.statistics import Needs, Stats

__all__ = ["ActivationRanges", "placement_of", "spread", "wide_range"]


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
        bits: Bits of the activations. With 16, "mse" and "entropy" clip nothing either: what the outer values cost is
            far below what clipping them would.
        wide: Layers and other nodes that read and write 16 bits where the others have 8: names, or other selectors of
            `passes.ir.selectors`.

    Raises:
        ValueError: ``percentile`` is not above 50 and at most 100, or ``wide`` is given and all nodes have 16 bits.
    """

    name: ClassVar[str] = "activation_ranges"
    stage: ClassVar[Stage] = Stage.RANGES

    method: Literal["mse", "percentile", "entropy", "minmax"] = "mse"
    percentile: float = 99.99
    bits: Literal[8, 16] = 8
    wide: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile must be above 50 and at most 100, not {self.percentile}")
        if self.wide and self.bits == 16:
            raise ValueError("wide names nodes of 16 bits, and with bits = 16 all have them; leave one of the two out")

    def widened(self, nodes: Iterable[str]) -> "ActivationRanges":
        """Return the pass with more nodes of 16 bits."""
        return replace(self, wide=tuple(dict.fromkeys((*self.wide, *nodes))))

    def requires(self, model: Model) -> None:
        """Require kernels for the bits of activations, and for every layer, if the target needs integers.

        Raises:
            TargetError: A layer has no integer kernel, or the target has none for 16 bits. The message names the layer,
                and what to do.
            UnknownLayerError: A selector matches no node. The message has the nearest names.
        """
        if (self.bits == 16 or self.wide) and 16 not in model.rules.activation_bits:
            raise TargetError(
                "the target has no integer kernels for activations of 16 bits, so the file would be slower than float; "
                "use a target that has them, such as qnn, or activations of 8 bits"
            )
        self._wide_nodes(model)
        for layer in model.layers_to_quantize().values():
            reason = model.rules.why_no_kernel(layer.op, len(layer.weight_shape), layer.groups)
            if reason and not model.rules.weight_only:
                raise needs_integers(layer.name, reason)

    def needs(self, model: Model) -> Needs:
        """Request a histogram of every tensor that has its own grid."""
        return Needs(histograms=frozenset(placement_of(model).tensors.values()))

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Fill `Model.activation_qparams`. Layers that no value reaches stay in float."""
        placement, wide = _reached(model, stats), self._wide_nodes(model)
        tensors, bits = model.graph.tensors(), widths(model.graph, placement, wide, 8 if wide else self.bits)
        grids = {name: self._grid(tensors[name], placement, model, stats, count) for name, count in bits.items()}
        fixed = {name for name in grids if bits[name] == 16 and wide_range(tensors[name], model) is not None}
        grids = shared_grids(model.graph, placement, grids, symmetric=model.rules.symmetric, fixed=fixed)
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
        integer = placement.integer
        if wide:
            narrow = {
                tensor: self._grid(tensors[source], placement, model, stats, 8).scaled(
                    placement.factors.get(tensor, 1.0)
                )
                for tensor, source in placement.tensors.items()
                if bits[source] == 16
            }
            integer |= convert_widths(model, placement, wide, narrow)
        model.activation_qparams = split_readers(model.graph, model.activation_qparams, integer)
        keep_apart(model.graph, model.rules, model.activation_qparams, placement.integer)
        return PassReport(self.name, changed, skipped, ranges=covered)

    def _wide_nodes(self, model: Model) -> frozenset[str]:
        """Return the names of the nodes with 16 bits, if others have 8: those that `wide` selects, or all but a few."""
        known = [str(node.name) for node in model.graph.nodes]
        selected = select(self.wide, model.graph, known, self.name)
        narrow = frozenset[str]() if model.rules.wide_silu else silu_sigmoids(model.graph)
        if self.bits == 16:
            return frozenset(known) - narrow if narrow else frozenset()
        return frozenset(name for chosen in selected.values() for name in chosen) - narrow

    def _grid(self, tensor: gs.Tensor, placement: Placement, model: Model, stats: Stats, bits: int) -> ActivationGrid:
        """Return the grid of a tensor that has its own, within the bounds of an absorbed clamp.

        Pixels have a grid of 8 bits of their own, and so have 16-bit results of some operators on some targets.
        """
        source, pixels = str(tensor.name), pixel_grid(tensor)
        if pixels is not None and not model.rules.signed and bits == 8:
            return pixels[1]
        if bits == 16 and (most := wide_range(tensor, model)) is not None:
            return ActivationGrid.up_to(most)
        low, high = self._range(stats.histograms[source], symmetric=model.rules.symmetric, bits=bits)
        least, most = placement.bounds.get(source, (low, high))
        low, high = max(low, min(least, 0.0)), min(high, max(most, 0.0))
        return ActivationGrid.of(low, high, signed=model.rules.signed, symmetric=model.rules.symmetric, bits=bits)

    def _range(self, histogram: Histogram, *, symmetric: bool, bits: int) -> tuple[float, float]:
        if self.method == "percentile":
            return percentile(histogram, self.percentile)
        if self.method == "minmax" or bits == 16:
            return minmax(histogram)
        if self.method == "entropy":
            return entropy(histogram, 8)
        return mse(histogram, 8, symmetric)


def wide_range(tensor: gs.Tensor, model: Model) -> float | None:
    """Return the largest value of the grid that a target's kernel writes with 16 bits, or None if the grid is free."""
    ranges = (model.rules.wide_ranges.get(node.op) for node in tensor.inputs)
    return next((most for most in ranges if most is not None), None)


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
