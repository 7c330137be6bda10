"""Adopt the grids of activations of a model that is quantized already."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_graphsurgeon as gs

from passes.activations.activation_ranges import placement_of, wide_range
from passes.activations.unrounded import float_readers, split_readers
from passes.base import GraphPass, Stage
from passes.errors import QuantizationError
from passes.ir.existing_qparams import REQUANTIZE, requantize_with
from passes.ir.model import Model
from passes.numerics.grid import ActivationGrid
from passes.report import Change, PassReport
from passes.statistics import Stats

__all__ = ["KeepRanges"]


@dataclass(frozen=True)
class KeepRanges(GraphPass):
    """Adopt the grids of activations.

    Attributes:
        sign: "target" writes int8 or uint8 codes, whichever the target's kernels want. "found" keeps the file's codes,
            unless the target takes symmetric grids only. The values are the same, but onnxruntime's uint8 kernels round
            a few of 1,000 results to the next code where its int8 kernels do not.
    """

    name: ClassVar[str] = "keep_ranges"
    stage: ClassVar[Stage] = Stage.RANGES

    sign: Literal["target", "found"] = "target"

    def requires(self, model: Model) -> None:
        """Require that the source model is quantized."""
        model.require_source_codes()

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Fill `Model.activation_qparams`.

        A constant whose grid the target does not take stays in float. Its values are the same.

        Raises:
            QuantizationError: The target does not take the grid of a computed tensor, or the file's quantized readers
                of a tensor are not those that would be written.
        """
        for tensor, reason in model.existing_qparams.unkept.items():
            raise QuantizationError(f"{tensor} {reason}, which cannot be kept; {REQUANTIZE}")
        present = {tensor.name: tensor for node in model.graph.nodes for tensor in (*node.inputs, *node.outputs)}
        notes = []
        for tensor, existing in model.existing_qparams.ranges.items() if model.rules.linear else ():
            keep_sign = self.sign == "found" and not model.rules.symmetric
            grid = existing.with_sign(existing.signed if keep_sign else model.rules.signed)
            refused = _why_refused(tensor, grid, model)
            if tensor not in present:
                notes.append(f"{tensor} is no longer in the graph, so its grid cannot be kept")
            elif refused and isinstance(present[tensor], gs.Constant):
                notes.append(f"{tensor} is a constant, and the target does not take its grid: it stays in float")
            elif refused:
                raise QuantizationError(f"{tensor}: {refused}")
            else:
                model.activation_qparams[tensor] = grid
        if model.existing_qparams.ranges and not model.rules.linear:
            notes.append("the target has no integer layers: activations stay in float")
        _split_readers(model)
        changed, skipped = {}, {}
        for name, layer in model.layers().items():
            if layer.input in model.activation_qparams:
                changed[name] = Change("grid of its input kept")
            else:
                skipped[name] = "its input stays in float"
        return PassReport(self.name, changed, skipped, tuple(notes))


def _why_refused(tensor: str, grid: ActivationGrid, model: Model) -> str:
    """Return why the target does not take a grid, and the next step. Empty if it does."""
    again = requantize_with("int8" if grid.bits == 8 else "a16w8")
    if grid.bits not in model.rules.activation_bits:
        return (
            f"its grid has {grid.bits} bits, and the target has no integer kernels for them; convert it for a target "
            f"that has, such as qnn, or {REQUANTIZE}"
        )
    if model.rules.symmetric and grid.zero_point not in ({0} if grid.signed else {0, 1 << (grid.bits - 1)}):
        return f"its grid has zero point {grid.zero_point}, and the target takes symmetric ones only; {again}"
    found = model.graph.tensors().get(tensor) if grid.bits == 16 and model.rules.wide_ranges else None
    most = None if found is None else wide_range(found, model)
    if most is not None and (grid.scale, grid.zero_point) != (ActivationGrid.up_to(most).scale, 0):
        step = float(ActivationGrid.up_to(most).scale)
        return f"its grid has step {float(grid.scale):g}, and the target's kernel writes 16 bits with {step:g}; {again}"
    return ""


def _split_readers(model: Model) -> None:
    """Let the nodes that read floats in the file read floats again.

    Raises:
        QuantizationError: The nodes that would do so are not those of the file.
    """
    recorded = {
        name: count for name, count in model.existing_qparams.float_readers.items() if name in model.activation_qparams
    }
    if not recorded:
        return
    copies = {str(node.name) for node in model.graph.nodes if node.outputs[0].name in model.existing_qparams.copies}
    integer = placement_of(model).integer | copies
    found = {name: len(nodes) for name, nodes in float_readers(model.graph, recorded, integer).items()}
    for name, count in recorded.items():
        if found.get(name) != count:
            raise QuantizationError(f"{name} is read both quantized and in float, which cannot be kept; {REQUANTIZE}")
    model.activation_qparams = split_readers(model.graph, model.activation_qparams, integer, recorded)
