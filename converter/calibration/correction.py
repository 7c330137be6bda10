"""Corrections: scales and biases of quantized layers moved until their outputs have the float network's statistics.

The same walk as `converter.calibration.sequential`, once the codes are fixed: a layer's outputs in both networks are compared channel by
channel on the inputs that the layers before it, corrected already, really give it.
"""

import time
from dataclasses import replace

import numpy as np

from converter.calibration.activation_cache import ActivationCache
from converter.calibration.sequential import DEFAULT_BUDGET, SequentialCalibration, min_scale_for_bias
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
        raise QuantizationError(f"{correction.name} needs calibration data; use `calibration=`")
    layers = model.layers()
    skipped = {
        name: model.float_reasons.get(name, "it is not quantized") for name in layers if name not in model.quantized
    }
    skipped |= {
        name: "a MatMul has no bias" for name in model.quantized if layers[name].op == "MatMul" and name not in skipped
    }
    walked = {name: layer for name, layer in layers.items() if name not in skipped}
    changed: dict[str, Change] = {}
    with ActivationCache(budget) as cache:
        calibration = SequentialCalibration(model, exact_model(model), walked, data, cache, seed=seed)
        for index, layer in enumerate(calibration.steps()):
            changed[layer.name] = _correct(model, correction, layer, _outputs(calibration, model, layer))
            progress(correction.name, index + 1, len(walked))
    notes = (f"{cache.spilled} activation batches went to files",) if cache.spilled else ()
    return PassReport(correction.name, changed, skipped, notes, time.perf_counter() - started)


def exact_model(model: Model) -> Model:
    """The float network that a quantized model came from: the same graph with the weights of `Model.float_weights`."""
    exact = Model(model.graph.copy(), model.rules)
    layers = exact.layers()
    for name in model.float_weights:
        write_exact(exact, layers[name], model)
    return exact


def write_exact(target: Model, layer: Linear, quantized: Model) -> None:
    """Give a layer the float weight and bias that its quantized form came from; a bias that came since is zero."""
    weight, bias = quantized.float_weights[layer.name]
    present = target.bias(layer)
    target.write(layer, weight, np.zeros_like(present) if bias is None and present is not None else bias)


def _outputs(calibration: SequentialCalibration, model: Model, layer: Linear) -> OutputStatistics:
    groups, outputs, _ = layer.matrix_shape
    sums = OutputSums(groups, outputs)
    weight, bias = model.float_weights[layer.name]
    for _, exact, quantized in calibration.rows(layer):
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
    min_scale = min_scale_for_bias(model, layer, bias)
    if min_scale is not None:
        factor = np.maximum(factor, np.minimum(min_scale / grid.scale.min(axis=2), 1.0))
    scaled = replace(grid, scale=(grid.scale * factor[:, :, None]).astype(np.float32))
    present = np.zeros_like(outputs.mean) if bias is None else bias.astype(np.float64)
    # outputs hold the bias, which the factor multiplies too
    shift = present * factor + found.shift + (found.factor - factor) * outputs.mean_quantized
    before = decibel(1.0, outputs.error(np.ones_like(factor), np.zeros_like(factor)))
    after = decibel(1.0, outputs.error(factor, shift - present * factor))
    model.quantized[layer.name] = Quantized(quantized.codes, scaled, after)
    model.write(layer, scaled.values(quantized.codes), shift.astype(np.float32))
    size = "per channel" if grid.block_size is None else f"blocks of {grid.block_size}"
    return Change(f"{grid.bits} bits {size}, {found.what}", before, after)
