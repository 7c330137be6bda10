"""Corrections: adjust scales and biases until the layers' outputs have the float network's statistics.

Codes stay fixed. The layers are corrected in the order of sequential calibration (`converter.calibration.sequential`).
The outputs of a layer in the float and in the quantized network are compared channel by channel. The inputs of the
quantized layer come from the layers before it, which are already corrected.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from converter.calibration.activation_cache import ActivationCache
from converter.calibration.layer_inputs import SequentialCalibration
from converter.calibration.min_scale import min_scale_for_bias
from converter.calibration.recurrent import restore_recurrent
from converter.data.dataset import Dataset
from converter.runtime.batch_size import DEFAULT_MEMORY_BUDGET
from converter.runtime.session import Progress
from passes.base import Correction, CorrectionPass
from passes.errors import QuantizationError
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.ir.ties import tied_layers
from passes.numerics.error import decibel
from passes.numerics.grid import Floats
from passes.numerics.output_statistics import OutputStatistics, OutputSums
from passes.report import Change, PassReport

__all__ = ["correct_layers", "float_network", "restore_float_weight"]


def correct_layers(
    model: Model,
    correction: CorrectionPass,
    data: Dataset | None,
    progress: Progress,
    *,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    seed: int = 0,
) -> PassReport:
    """Run a correction pass over every quantized layer that has a bias or can have one.

    Args:
        model: The quantized model. Its scales, biases and dequantized weights change in place. No code changes.
        correction: The pass. It decides the factor and the shift of each channel.
        data: Calibration data.
        progress: Called after every layer.
        memory_budget: As for `converter.calibration.sequential.solve_layers`.
        seed: Random seed of the output positions that are sampled from each image.

    Returns:
        The report of the pass. It has no changes if only LSTM, GRU and RNN are quantized.

    Raises:
        QuantizationError: No layer is quantized yet, or there are no data.
        DataError: An activation is NaN or Inf. The message names the tensor.
    """
    if not (model.quantized or model.recurrent):
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
    if not model.quantized:
        return PassReport(correction.name, {}, skipped)  # LSTM, GRU and RNN have codes, and they are not corrected
    correctable = {name: layer for name, layer in layers.items() if name not in skipped}
    ties = tied_layers(layers[name] for name in model.quantized)
    changed: dict[str, Change] = {}
    with ActivationCache(memory_budget // 2) as cache:
        calibration = SequentialCalibration(
            model, float_network(model), correctable, data, cache, seed=seed, together=memory_budget // 2
        )
        for index, layer in enumerate(calibration.solving_order()):
            outputs = _output_statistics(calibration, model, layer)
            changed[layer.name] = _correct(model, correction, layer, outputs, tied=layer.name in ties)
            progress(correction.name, index + 1, len(correctable))
    notes = (f"{cache.spilled} activation batches were kept in files",) if cache.spilled else ()
    return PassReport(correction.name, changed, skipped, notes)


def float_network(model: Model) -> Model:
    """The float network that a quantized model came from: the same graph with the weights in `Model.float_weights`."""
    network = Model(model.graph.copy(), model.rules)
    layers = {name: layer for name, layer in network.layers().items() if name in model.float_weights}
    ties = tied_layers(layers.values())
    for names in dict.fromkeys(ties.get(name, (name,)) for name in layers):
        _restore(network, [layers[name] for name in names], model)
    restore_recurrent(network, model.recurrent)
    return network


def restore_float_weight(model: Model, layer: Linear) -> None:
    """Give a layer the float weight and bias that it had before it was quantized.

    A bias that the layer got only by quantization becomes zero.
    """
    _restore(model, [layer], model)


def _restore(target: Model, layers: Sequence[Linear], quantized: Model) -> None:
    biases = []
    for layer in layers:
        present, bias = target.bias(layer), quantized.float_weights[layer.name].bias
        biases.append(np.zeros_like(present) if bias is None and present is not None else bias)
    target.write_stored(layers, quantized.float_weights[layers[0].name].stored, biases)


def _output_statistics(calibration: SequentialCalibration, model: Model, layer: Linear) -> OutputStatistics:
    groups, outputs, _ = layer.matrix_shape
    sums = OutputSums(groups, outputs)
    weight, bias = model.float_weights[layer.name].matrix(), model.float_weights[layer.name].bias
    for _, float_rows, quantized_rows in calibration.rows(layer):
        assert quantized_rows is not None  # the calibration runs both streams
        sums.update(_linear(float_rows, weight, bias), _linear(quantized_rows, model.weight(layer), model.bias(layer)))
    return sums.statistics()


def _linear(rows: Floats, weight: Floats, bias: Floats | None) -> Floats:
    """Outputs ``[g, n, o]`` of a layer for input rows ``[g, n, k]``."""
    outputs: Floats = rows @ weight.transpose(0, 2, 1)
    return outputs if bias is None else outputs + bias[:, None, :]


def _correct(
    model: Model, correction: CorrectionPass, layer: Linear, outputs: OutputStatistics, *, tied: bool
) -> Change:
    """Correct one layer. Of layers that share a weight, only the biases are corrected.

    An int32 bias needs its headroom (`min_scale_for_bias`). So a factor may become larger than the pass wanted.
    """
    wanted: object = correction.correct(outputs)
    if not isinstance(wanted, Correction):
        raise QuantizationError(f"{correction.name}: correct() returned {type(wanted).__name__}; return a Correction")
    quantized = model.quantized[layer.name]
    grid, bias = quantized.grid, model.bias(layer)
    factor = np.ones_like(wanted.factor) if tied else wanted.factor
    min_scale = min_scale_for_bias(model, layer, bias)
    if min_scale is not None and not tied:
        factor = np.maximum(factor, np.minimum(min_scale / grid.scale.min(axis=2), 1.0))
    scaled = replace(grid, scale=(grid.scale * factor[:, :, None]).astype(np.float32))
    present = np.zeros_like(outputs.mean) if bias is None else bias.astype(np.float64)
    # The outputs include the bias, so the factor multiplies the bias too.
    shift = present * factor + wanted.shift + (wanted.factor - factor) * outputs.mean_quantized
    before = decibel(1.0, outputs.error(np.ones_like(factor), np.zeros_like(factor)))
    after = decibel(1.0, outputs.error(factor, shift - present * factor))
    model.quantized[layer.name] = replace(quantized, grid=scaled, sqnr_db=after)
    model.write_codes([layer], quantized.codes, scaled, [shift.astype(np.float32)])
    what = f"{wanted.what}, by the bias alone, because its weight is shared" if tied else wanted.what
    size = "per channel" if grid.block_size is None else f"blocks of {grid.block_size}"
    return Change(f"{grid.bits} bits {size}, {what}", before, after)
