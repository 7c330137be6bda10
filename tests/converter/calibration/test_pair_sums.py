"""Kernels that add two products in 16 bits: sums of neighbouring codes fit them."""

import numpy as np
import onnx
import onnxruntime
import pytest

from converter import convert
from converter.qdq.reader import read_qdq
from models.zoo import ZOO, feeds_of
from passes.errors import QuantizationError
from passes.ir.linear import linear_layers
from passes.ir.onnx_graph import import_graph
from passes.numerics.pair_sums import largest_sums, limited
from tests.support.graphs import array, build, node

MOST = 128  # 255 x 128 fits 16 bits


def neighbours(model: onnx.ModelProto) -> dict[str, float]:
    """The largest sum of two neighbouring codes of every layer."""
    source, existing = read_qdq(model)
    found = {}
    for name, layer in linear_layers(import_graph(source)).items():
        codes, grid = existing.weights[layer.weight].on_grid(layer)
        found[name] = float(largest_sums(grid.integers(codes), layer.kernel).max())
    return found


@pytest.mark.parametrize(("taps", "k"), [((), 7), ((), 8), ((3, 3), 45), ((2,), 6)])
def test_neighbours_are_channels_of_one_tap(taps: tuple[int, ...], k: int) -> None:
    rng = np.random.default_rng(k)
    codes = rng.integers(-127, 128, (2, 5, k)).astype(np.int8)
    count = int(np.prod(taps))
    expected = np.zeros((2, 5))
    for group, output in np.ndindex(2, 5):
        row = [codes[group, output, channel * count + tap] for tap in range(count) for channel in range(k // count)]
        pairs = [row[place : place + 2] for place in range(0, k, 2)]
        expected[group, output] = max(abs(sum(map(int, pair))) for pair in pairs)
    np.testing.assert_array_equal(largest_sums(codes, taps), expected)
    within = limited(codes, taps, MOST)
    assert largest_sums(within, taps).max() <= MOST
    fits = expected <= MOST
    np.testing.assert_array_equal(within[fits], codes[fits])


def test_only_one_input_for_one_output_is_depthwise() -> None:
    assert largest_sums(np.full((8, 1, 9), 127), (3, 3)).max() == 0
    assert largest_sums(np.full((8, 2, 9), 127), (3, 3)).max() == 254
    assert largest_sums(np.full((1, 16, 9), 127), (3, 3)).max() == 254


def test_codes_that_saturate_are_not_kept() -> None:
    """Weights of one sign: sums of neighbours are about twice the largest code."""
    weight = np.abs(np.random.default_rng(0).normal(1, 0.05, (64, 64))).astype(np.float32) / 64
    x = array(64, 64)
    model = convert(build([node("Gemm", ["x", "w"], ["y"], name="layer")], {"w": weight}, ["n", 64]), x).model
    with pytest.raises(
        QuantizationError, match=r"layer: sums of its codes reach 2\d\d, and the target's kernels saturate"
    ):
        convert(model, recipe="keep", target="cpu-avx2")


@pytest.mark.parametrize("recipe", ["int8", "int8-gptq", "int4"])
@pytest.mark.parametrize("name", ["conv", "conv grouped", "conv depthwise", "conv dilated", "gemm transB", "attention"])
def test_sums_of_neighbouring_codes_fit(name: str, recipe: str) -> None:
    model = ZOO[name]()
    result = convert(model, feeds_of(model, 32, seed=1), recipe=recipe, target="cpu-avx2")
    integer = {layer.name for layer in result.layers if layer.activation_bits == 8}
    sums = {layer: largest for layer, largest in neighbours(result.model).items() if layer in integer}
    assert sums
    assert max(sums.values()) <= MOST


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
