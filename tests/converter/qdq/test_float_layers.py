"""A layer that is left in float stays there: onnxruntime must not round its weight to one scale for the whole tensor.

One weight of the kept layer is huge and meets an input that is always zero. It changes nothing in float; at one int8
scale for the whole tensor it rounds all the others to zero.
"""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from converter.pipeline.convert import convert
from converter.recipes.builtin import find_recipe
from converter.recipes.overrides import with_layers
from passes.numerics.error import sqnr_db
from tests.support.graphs import run as unoptimized
from tests.support.models import make_model
from tests.support.networks import run

Floats = NDArray[np.float32]
DRAW = np.random.default_rng(0)
X = DRAW.standard_normal((64, 4, 6, 6), dtype=np.float32)


def weight(*shape: int) -> Floats:
    return DRAW.standard_normal(shape, dtype=np.float32)


def net(op: str, clamp: str) -> onnx.ModelProto:
    """first -> Relu (channel 0 is always 0) -> the layer in question -> clamp -> last."""
    flat = op == "Gemm"
    shape = (4, 4) if flat else (4, 4, 2, 2)
    constants: dict[str, NDArray[Any]] = {
        "a.weight": weight(4, 4, 1, 1),
        "b.weight": weight(*shape),
        "c.weight": weight(*shape),
        "limit": np.array(1, np.float32),
    }
    constants["a.weight"][0] = 0
    middle = constants["b.weight"]
    (middle if op == "ConvTranspose" or flat else middle[:, 0])[0] = 1e3
    nodes = [
        helper.make_node("Conv", ["input", "a.weight"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["a.relu"], "relu"),
    ]
    if flat:
        nodes += [helper.make_node("ReduceMean", ["a.relu"], ["mean"], "mean", keepdims=0, axes=[2, 3])]
    nodes.append(helper.make_node(op, ["mean" if flat else "a.relu", "b.weight"], ["b"], "kept"))
    clamps = {"Relu": ["b"], "Clip": ["b", "", "limit"]}
    if clamp:
        nodes.append(helper.make_node(clamp, clamps[clamp], ["b.clamp"], "clamp"))
    last = "Gemm" if flat else "Conv"
    nodes.append(helper.make_node(last, ["b.clamp" if clamp else "b", "c.weight"], ["output"], "last"))
    return make_model(
        nodes,
        constants,
        inputs={"input": ["n", 4, 6, 6]},
        outputs={"output": ["n", 4] if flat else ["n", 4, None, None]},
        opset=17,
    )


@pytest.mark.parametrize("clamp", ["", "Relu", "Clip"])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm"])
def test_a_layer_left_in_float_is_computed_in_float(op: str, clamp: str) -> None:
    model = net(op, clamp)
    recipe = with_layers(find_recipe("int8"), exclude=["kept"])
    quantized = convert(model, X, recipe=recipe).model
    actual = sqnr_db(run(model, X)[0], run(quantized, X)[0])
    assert actual > 30, "what is left are three roundings of activations to 8 bits"


def test_a_transposed_convolution_that_has_no_integer_kernel_keeps_its_scales() -> None:
    """Its codes become floats at load, and onnxruntime could round these again. Optimizing must change nothing."""
    quantized = convert(net("ConvTranspose", "Relu"), X, recipe="int8").model
    assert sqnr_db(unoptimized(quantized, X)[0], run(quantized, X)[0]) > 40, "ties of roundings at most"


def test_layers_on_integers_get_no_scales_per_channel() -> None:
    every = convert(net("Conv", "Relu"), X, recipe="int8").model
    floats = convert(net("Conv", "Relu"), X, recipe="int4-weight-only").model
    for quantized in (every, floats):
        assert not any(node.name.endswith("_dequantize_channels") for node in quantized.graph.node)
