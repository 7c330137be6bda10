"""Corrections: scales and biases of quantized layers moved until their outputs have the float network's statistics.

The same walk as `converter.calibration.sequential`, once the codes are fixed: a layer's outputs in both networks are compared channel by
channel on the inputs that the layers before it, corrected already, really give it.
"""

import time
from dataclasses import replace

import numpy as np

from converter.calibration.activation_cache import Streams
from converter.calibration.sequential import DEFAULT_BUDGET, Walk, bias_floor
from converter.data.dataset import Dataset
from converter.runtime.session import Progress
from passes.base import CorrectionPass
from passes.errors import QuantizationError
from passes.ir.linear import Linear
from passes.ir.model import Model, Quantized
from passes.numerics.error import decibel
from passes.numerics.grid import Floats
from passes.numerics.output_statistics import OutputStatistics, OutputSums
from passes.report import Change, PassReport

__all__ = ["correct_layers", "exact_model", "write_exact"]


def correct_layers(
    model: Model,
    correction: CorrectionPass,
    data: Dataset | None,
    progress: Progress,
    *,
    budget: int = DEFAULT_BUDGET,
    seed: int = 0,
) -> PassReport:
    """Run a correction over every quantized layer that has, or can have, a bias.

    Args:
        model: changed in place: scales, biases and dequantized weights; no code moves.
        correction: what decides.
        data: calibration data.
        progress: called after every layer.
        budget: bytes of activations held in memory before they go to files.
        seed: of the output positions drawn from each image.

    Raises:
        QuantizationError: nothing is quantized yet, or there are no data.
        DataError: an activation is NaN or Inf; names the tensor.
    """
    started = time.perf_counter()
    if not model.quantized:
        raise QuantizationError(f"{correction.name}: no layer is quantized; put the pass after rtn, gptq or another")
    if data is None:
        raise QuantizationError(f"{correction.name} needs calibration data; use --calibration")
    layers = model.layers()
    skipped = {name: model.kept.get(name, "it is not quantized") for name in layers if name not in model.quantized}
    skipped |= {
        name: "a MatMul has no bias" for name in model.quantized if layers[name].op == "MatMul" and name not in skipped
    }
    walked = {name: layer for name, layer in layers.items() if name not in skipped}
    changed: dict[str, Change] = {}
    with Streams(budget) as streams:
        walk = Walk(model, exact_model(model), walked, data, streams, seed=seed)
        for index, layer in enumerate(walk.steps()):
            changed[layer.name] = _correct(model, correction, layer, _outputs(walk, model, layer))
            progress(correction.name, index + 1, len(walked))
    notes = (f"{streams.spilled} activation batches went to files",) if streams.spilled else ()
    return PassReport(correction.name, changed, skipped, notes, time.perf_counter() - started)


def exact_model(model: Model) -> Model:
    """The float network that a quantized model came from: the same graph with the weights of `Model.exact`."""
    exact = Model(model.graph.copy(), model.rules)
    layers = exact.layers()
    for name in model.exact:
        write_exact(exact, layers[name], model)
    return exact


def write_exact(target: Model, layer: Linear, quantized: Model) -> None:
    """Give a layer the float weight and bias that its quantized form came from; a bias that came since is zero."""
    weight, bias = quantized.exact[layer.name]
    present = target.bias(layer)
    target.write(layer, weight, np.zeros_like(present) if bias is None and present is not None else bias)


def _outputs(walk: Walk, model: Model, layer: Linear) -> OutputStatistics:
    groups, outputs, _ = layer.matrix_shape
    sums = OutputSums(groups, outputs)
    weight, bias = model.exact[layer.name]
    for _, exact, quantized in walk.rows(layer):
        assert quantized is not None  # the walk is sequential
        sums.update(_linear(exact, weight, bias), _linear(quantized, model.weight(layer), model.bias(layer)))
    return sums.statistics()


def _linear(rows: Floats, weight: Floats, bias: Floats | None) -> Floats:
    """Outputs ``[g, n, o]`` of rows ``[g, n, k]``."""
    outputs: Floats = rows @ weight.transpose(0, 2, 1)
    return outputs if bias is None else outputs + bias[:, None, :]


def _correct(model: Model, correction: CorrectionPass, layer: Linear, outputs: OutputStatistics) -> Change:
    """Correct one layer; its int32 bias keeps its headroom, so a factor may be larger than asked for."""
    found = correction.correct(outputs)
    quantized = model.quantized[layer.name]
    grid, bias = quantized.grid, model.bias(layer)
    factor = found.factor
    floor = bias_floor(model, layer, bias)
    if floor is not None:
        factor = np.maximum(factor, np.minimum(floor / grid.scale.min(axis=2), 1.0))
    scaled = replace(grid, scale=(grid.scale * factor[:, :, None]).astype(np.float32))
    present = np.zeros_like(outputs.mean) if bias is None else bias.astype(np.float64)
    # outputs hold the bias, which the factor multiplies too
    shift = present * factor + found.shift + (found.factor - factor) * outputs.mean_quantized
    before = decibel(1.0, outputs.error(np.ones_like(factor), np.zeros_like(factor)))
    after = decibel(1.0, outputs.error(factor, shift - present * factor))
    model.quantized[layer.name] = Quantized(quantized.codes, scaled, after)
    model.write(layer, scaled.values(quantized.codes), shift.astype(np.float32))
    size = "per channel" if grid.block is None else f"blocks of {grid.block}"
    return Change(f"{grid.bits} bits {size}, {found.what}", before, after)
