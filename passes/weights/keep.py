"""Adopt the codes of a model that is quantized already. Nothing is rounded again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from passes.base import GraphPass, Stage, require_codes
from passes.errors import QuantizationError, argument
from passes.ir.existing_qparams import REQUANTIZE, ExistingCodes
from passes.ir.linear import Linear
from passes.ir.model import Model, Quantized, QuantizedRecurrent
from passes.ir.recurrent import NO_FLOATS
from passes.numerics.grid import Codes, Grid
from passes.numerics.pair_sums import largest_sums
from passes.report import Change, PassReport
from passes.statistics import Stats

__all__ = ["KeepCodes"]


@dataclass(frozen=True)
class KeepCodes(GraphPass):
    """Adopt the codes and grids of weights."""

    name: ClassVar[str] = "keep_codes"
    stage: ClassVar[Stage] = Stage.WEIGHTS
    keeps_codes: ClassVar[bool] = True

    def requires(self, model: Model) -> None:
        """Require that the source model is quantized."""
        model.require_source_codes()

    def ensures(self, model: Model) -> None:
        """Check that every layer has codes, or a reason to stay in float."""
        require_codes(model, self.name)

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Fill `Model.quantized`.

        Raises:
            QuantizationError: Integer kernels do not take the grids of some layers, or an earlier pass has changed a
                weight.
        """
        changed: dict[str, Change] = {}
        refused: dict[str, str] = {}
        for name, layer in model.layers().items():
            existing = model.existing_qparams.weights.get(layer.weight)
            if name in model.float_reasons:
                continue
            if existing is None:
                model.float_reasons[name] = "its weight has no codes of 8 bits or fewer in the source"
                continue
            codes, grid = _codes_on_grid(model, layer, existing)
            integer = layer.input in model.activation_qparams and (
                model.rules.why_no_kernel(layer.op, len(layer.weight_shape), layer.groups) is None
            )
            reason = _why_no_kernel(grid) if integer else ""
            if integer and not reason and model.rules.pair_sum is not None:
                reason = _why_it_saturates(grid.integers(codes), layer, model.rules.pair_sum)
            if reason:
                refused[name] = reason
                continue
            model.float_weights[name] = model.float_weight(layer)
            model.quantized[name] = Quantized(codes, grid, float("nan"))
            what = f"{grid.bits} bits kept"
            if integer and _changes_bias(model, layer, existing, grid):
                what += ", bias rounded to steps of its input's scale times its weight's"
            changed[name] = Change(what)
        _require_kernels(refused)
        changed |= _keep_recurrent(model)
        return PassReport(self.name, changed, dict(model.float_reasons))


def _keep_recurrent(model: Model) -> dict[str, Change]:
    """Adopt the codes of LSTM, GRU and RNN, if the file has them for W and for R."""
    changed = {}
    for name, layer in model.recurrent_layers().items():
        if name in model.float_reasons:
            continue
        first, second = (model.existing_qparams.weights.get(weight.weight) for weight in layer.weights)
        if first is None or second is None:
            which = {(True, False): "its weight W has", (False, True): "its weight R has"}
            whose = which.get((first is None, second is None), "its weights have")
            model.float_reasons[name] = f"{whose} no codes of 8 bits or fewer in the source"
            continue
        if not model.rules.weight_only:
            model.float_reasons[name] = NO_FLOATS
            continue
        kept = [
            Quantized(*_codes_on_grid(model, weight, existing), float("nan"))
            for weight, existing in zip(layer.weights, (first, second), strict=True)
        ]
        floats = tuple(model.float_weight(weight) for weight in layer.weights)
        model.recurrent[name] = QuantizedRecurrent((kept[0], kept[1]), (floats[0], floats[1]))
        changed[name] = Change(f"{max(each.grid.bits for each in kept)} bits kept")
    return changed


def _codes_on_grid(model: Model, layer: Linear, existing: ExistingCodes) -> tuple[Codes, Grid]:
    """Return the codes of a weight and their grid, which must still give its values."""
    codes, grid = existing.on_grid(layer)
    if not np.array_equal(grid.values(codes), model.weight(layer)):
        raise QuantizationError(f"{layer.name}: its weight no longer equals its codes on their grid; {REQUANTIZE}")
    return codes, grid


def _why_no_kernel(grid: Grid) -> str:
    """Return why no integer layer can have such weights. Empty if one can."""
    if not grid.symmetric:
        zero_point = int(grid.zero_point.flat[np.abs(grid.zero_point).argmax()])
        return (
            f"its weight's grid has zero point {zero_point} (as int{grid.bits}), and integer layers are written with "
            "symmetric weights only"
        )
    if not grid.per_channel:
        return f"its weight has a scale for every {grid.block_size} inputs, which no integer kernel reads"
    return ""


def _why_it_saturates(codes: Codes, layer: Linear, most: int) -> str:
    """Return why a target that adds two products in 16 bits cannot have these codes. Empty if it can."""
    largest = int(largest_sums(codes, layer.kernel).max(initial=0))
    return (
        f"sums of its codes reach {largest}, and the target's kernels saturate above {most}" if largest > most else ""
    )


def _require_kernels(refused: Mapping[str, str]) -> None:
    """Name all layers that no kernel takes in one error, so that the user needs one more run only."""
    if not refused:
        return
    first, *others = refused
    more = f" (and {len(others)} more such)" if others else ""
    them = "them" if others else "it"
    raise QuantizationError(
        f"{first}: {refused[first]}{more}; {REQUANTIZE}, or leave {them} in float with "
        + argument(exclude=list(refused))
    )


def _changes_bias(model: Model, layer: Linear, existing: ExistingCodes, grid: Grid) -> bool:
    """Whether the writer's int32 bias differs from the file's, which can be a float or have a scale of its own."""
    bias = model.bias(layer)
    if bias is None or model.rules.bias != "int32":
        return False
    scale = (model.activation_qparams[layer.input].scale * grid.scale.reshape(-1)).astype(np.float32)
    codes = np.rint(bias.reshape(-1).astype(np.float64) / scale)
    return existing.bias is None or not np.array_equal(codes, np.broadcast_to(existing.bias.reshape(-1), codes.shape))
