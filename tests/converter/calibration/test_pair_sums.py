"""Kernels that add two products in 16 bits: sums of neighbouring codes fit them."""

import numpy as np
import onnx
import onnxruntime
import pytest

from converter import convert
from converter.qdq.reader import read_qdq
from models.zoo import ZOO, feeds_of
from passes.ir.linear import linear_layers
from passes.ir.onnx_graph import import_graph
from tests.support.graphs import array, build, node

LARGEST = 128  # 255 x 128 fits 16 bits


def neighbours(model: onnx.ModelProto) -> dict[str, int]:
    """The largest sum of two neighbouring codes of every layer, channels last."""
    source, existing = read_qdq(model)
    found = {}
    for name, layer in linear_layers(import_graph(source)).items():
        codes, grid = existing.weights[layer.weight].on_grid(layer)
        codes = grid.integers(codes).astype(int)
        taps = int(np.prod(layer.kernel))
        groups, outputs, k = codes.shape
        rows = codes.reshape(groups, outputs, k // taps, taps).swapaxes(2, 3).reshape(groups, outputs, k)
        even = np.pad(rows, ((0, 0), (0, 0), (0, k % 2)))
        found[name] = int(np.abs(even[:, :, ::2] + even[:, :, 1::2]).max())
    return found


@pytest.mark.parametrize("recipe", ["int8", "int8-gptq", "int4"])
@pytest.mark.parametrize("name", ["conv", "conv grouped", "conv dilated", "gemm transB", "attention"])
def test_sums_of_neighbouring_codes_fit(name: str, recipe: str) -> None:
    model = ZOO[name]()
    result = convert(model, feeds_of(model, 32, seed=1), recipe=recipe, target="cpu-avx2")
    integer = {layer.name for layer in result.layers if layer.activation_bits == 8}
    sums = {layer: largest for layer, largest in neighbours(result.model).items() if layer in integer}
    assert sums
    assert max(sums.values()) <= LARGEST + (1 if recipe == "int8-gptq" else 0)  # a code may move by one


def test_a_depthwise_convolution_keeps_its_scales() -> None:
    """Its kernel multiplies one by one."""
    model = build([node("Conv", ["x", "w"], ["y"], name="layer", group=8)], {"w": array(8, 1, 3, 3)}, ["n", 8, 6, 6])
    codes = [
        [tensor.raw_data for tensor in convert(model, array(32, 8, 6, 6), target=target).model.graph.initializer]
        for target in ("cpu", "cpu-avx2")
    ]
    assert codes[0] == codes[1]


def test_every_processor_computes_the_same() -> None:
    """Two Gemm with weights of one sign, on inputs of both signs: the worst that a sum in 16 bits can meet."""
    rng = np.random.default_rng(0)
    weights = {f"w{i}": np.abs(rng.normal(1, 0.05, (64, 64))).astype(np.float32) / 64 for i in range(2)}
    nodes = [node("Gemm", ["x", "w0"], ["h"], name="first"), node("Gemm", ["h", "w1"], ["y"], name="second")]
    x = array(64, 64)
    model = convert(build(nodes, weights, ["n", 64]), x, target="cpu-avx2").model
    outputs = []
    for exact in ("0", "1"):
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.x64quantprecision", exact)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, {"x": x})[0])
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)
