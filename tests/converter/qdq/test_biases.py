"""Biases in the file: 32 bits, one per layer, and biases that a correction adds."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import helper

from converter.qdq.floats import float_model
from converter.qdq.writer import emit
from passes.base import LayerPass
from passes.errors import TargetError
from passes.ir.model import Quantized
from passes.numerics.error import sqnr_db
from passes.weights.gptq import Gptq
from passes.weights.rtn import Rtn
from tests.support.networks import (
    LAYERS,
    images,
    initializers,
    network,
    quantize,
    random,
    relative_error,
    run,
    single,
)

X = images(16, 3, 12, 12)


def small_channel() -> onnx.ModelProto:
    """One output channel with tiny weights and a bias that is 10¹⁵ times as large."""
    weight, bias = random(4, 3, 3, 3), random(4, seed=3)
    weight[1] *= np.float32(1e-12)
    bias[1] = 1000
    return network(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv")],
        {"w": weight, "b": bias},
        {"x": ["N", 3, 12, 12]},
        {"y": ["N", 4, 10, 10]},
    )


@pytest.mark.parametrize("layer_pass", [Rtn(bits=8), Rtn(bits=4), Gptq(bits=4), Rtn(bits=4, scale="absmax")], ids=repr)
def test_a_bias_far_above_its_weights_fits_32_bits(layer_pass: LayerPass) -> None:
    model = quantize(small_channel(), layer_pass, X, ranges=True)
    codes = onnx.numpy_helper.to_array(initializers(emit(model))["b_int32"])
    assert np.abs(codes[1].astype(np.int64)) > 2**27  # the floor costs no more precision than it must
    actual, expected = run(emit(model), X)[0][:, 1], run(small_channel(), X)[0][:, 1]
    assert np.abs(actual - expected).max() <= 0.51 * float(model.activation_qparams["y"].scale)


@pytest.mark.parametrize("name", [name for name, layer in LAYERS.items() if layer.bias and layer.op != "ConvTranspose"])
def test_a_layer_computes_what_its_codes_say(name: str) -> None:
    """It equals the float layer on rounded inputs and dequantized weights. Its bias is off by half a step at most."""
    x = LAYERS[name].images()
    model = quantize(single(name), Rtn(bits=4), x, ranges=True)
    constants = initializers(emit(model))
    codes, scale = (onnx.numpy_helper.to_array(constants[key]).astype(np.float64) for key in ("b_int32", "b_scale"))
    layer = model.layers()["layer"]
    float_bias = model.bias(layer)
    assert float_bias is not None
    assert np.abs(codes * scale - float_bias.reshape(-1)).max() <= 0.501 * scale.max()
    expected = run(float_model(model.graph), model.activation_qparams["x"].values(x))[0]
    # the output's rounding where it is quantized, and the bias's
    step = float(model.activation_qparams["y"].scale) if "y" in model.activation_qparams else 0
    limit = 0.501 * step + scale.max() + 1e-5 * np.abs(expected).max()
    actual = run(emit(model), x)[0]
    inside = np.ones(actual.shape, bool)
    if "y" in model.activation_qparams:
        grid = model.activation_qparams["y"]
        inside = (expected > grid.low) & (expected < grid.high)
    assert inside.mean() > 0.95
    assert np.abs(actual - expected)[inside].max() <= limit


def test_a_bias_that_does_not_fit_is_refused() -> None:
    model = quantize(single("conv2d"), Rtn(bits=4), images(4, 6, 9, 8), ranges=True)
    quantized = model.quantized["layer"]
    grid = dataclasses.replace(quantized.grid, scale=quantized.grid.scale * np.float32(1e-10))
    model.quantized["layer"] = Quantized(quantized.codes, grid, 0.0)
    with pytest.raises(TargetError, match=r"layer: bias \S+ does not fit 32 bits at scale \S+; .*larger weight scale"):
        emit(model)


def test_layers_that_shared_a_bias_get_one_each() -> None:
    original = network(
        [
            helper.make_node("Conv", ["x", "w1", "b"], ["a"], "first", pads=[1] * 4),
            helper.make_node("Relu", ["a"], ["relu"], "relu"),
            helper.make_node("Conv", ["relu", "w2", "b"], ["y"], "second"),
        ],
        {"w1": random(6, 3, 3, 3), "w2": random(6, 6, 3, 3), "b": random(6)},
        {"x": ["N", 3, 12, 12]},
        {"y": ["N", 6, 10, 10]},
    )
    quantized = emit(quantize(original, Rtn(bits=8), X, ranges=True), "int8")
    assert len([name for name in initializers(quantized) if name.endswith("_int32")]) == 2
    assert sqnr_db(run(original, X)[0], run(quantized, X)[0]) > 32


@pytest.mark.parametrize("name", ["no_bias", "gemm_no_bias"])
def test_a_correction_adds_a_bias_to_a_layer_without_one(name: str) -> None:
    x = LAYERS[name].images()
    model = quantize(single(name), Gptq(bits=3), x, ranges=True)
    assert "layer.bias_dequantize" in [node.name for node in emit(model).graph.node]
    actual, float_output = run(emit(model), x)[0], run(single(name), x)[0]
    axes = tuple(axis for axis in range(float_output.ndim) if axis != 1)
    # 3 bits leave errors of 10 % in single outputs; their mean per channel is what the correction takes away
    assert np.abs((actual - float_output).mean(axis=axes)).max() < 0.01 * np.abs(float_output).max()
    assert relative_error(actual, float_output) > 0.02
