"""Gemm and MatMul whose inputs are quantized in every run, and recipes that need no data."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

import converter
from converter import convert, find_recipe
from passes.errors import ModelError, RecipeError
from passes.numerics.error import sqnr_db
from passes.weights.rtn import Rtn
from tests.support.models import make_model, small_cnn
from tests.support.networks import optimized, random, run
from tests.support.recurrent_layers import sequences, stacked

K, N, CLASSES = 48, 64, 10
X = random(6, 5, K)
node = helper.make_node


def block() -> onnx.ModelProto:
    """Two projections of one input with a bias each, their product through a Relu, and a Gemm with transB."""
    nodes = [
        node("MatMul", ["x", "w0"], ["p0"], name="query"),
        node("Add", ["p0", "b0"], ["q"]),
        node("MatMul", ["x", "w1"], ["k"], name="key"),
        node("Mul", ["q", "k"], ["m"]),
        node("Relu", ["m"], ["r"]),
        node("ReduceMean", ["r", "axes"], ["v"], keepdims=0),
        node("Gemm", ["v", "w2", "b2"], ["y"], name="head", transB=1),
    ]
    weights: dict[str, NDArray[Any]] = {
        "w0": random(K, N) / 7,
        "w1": random(K, N, seed=1) / 7,
        "b0": random(N),
        "w2": random(CLASSES, N) / 8,
        "b2": random(CLASSES),
        "axes": np.array([1]),
    }
    return make_model(nodes, weights, inputs={"x": ["n", 5, K]}, outputs={"y": ["n", CLASSES]})


def operators(model: onnx.ModelProto) -> list[str]:
    return [each.op_type for each in model.graph.node]


def by_numpy(x: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float64]:
    """A product on the codes that ONNX defines for DynamicQuantizeLinear, and on int8 codes per channel."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step = (high - low) / 255
    zero = np.clip(np.rint(-low / step), 0, 255)
    codes = np.clip(np.rint(x / step) + zero, 0, 255) - zero
    return np.asarray(codes * step @ weight.astype(np.float64))


def test_layers_multiply_integers_and_share_the_codes_of_their_input(tmp_path: Path) -> None:
    result = convert(block(), recipe="dynamic")
    found = operators(result.model)
    assert found.count("MatMulInteger") == 3
    assert found.count("DynamicQuantizeLinear") == 2
    assert {each.name for each in result.model.graph.node} >= {"query", "key", "head"}
    assert sqnr_db(run(block(), {"x": X})[0], run(result.model, {"x": X})[0]) > 30
    assert {layer.activation_bits for layer in result.layers} == {8}
    ran = optimized(result.model, tmp_path)
    assert ran["MatMulIntegerToFloat"] + ran["DynamicQuantizeMatMul"] == 3
    assert "Add" not in ran


def test_the_product_is_that_of_the_codes() -> None:
    weight = random(K, N) / 7
    model = make_model(
        [node("MatMul", ["x", "w"], ["y"], name="fc")],
        {"w": weight},
        inputs={"x": ["n", 5, K]},
        outputs={"y": ["n", 5, N]},
    )
    work = convert(model, recipe="dynamic")
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in work.model.graph.initializer}
    codes = next(values for values in stored.values() if values.dtype == np.int8)
    scale = next(values for values in stored.values() if values.shape == (N,))
    expected = by_numpy(X, codes * scale)
    actual = run(work.model, {"x": X})[0]
    assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()


def test_fewer_bits_are_unpacked_at_load(tmp_path: Path) -> None:
    recipe = find_recipe("dynamic").with_solver(bits=4)
    result = convert(block(), recipe=recipe)
    kinds = {tensor.data_type for tensor in result.model.graph.initializer}
    assert onnx.TensorProto.INT4 in kinds
    assert "Cast" not in optimized(result.model, tmp_path)
    assert sqnr_db(run(block(), {"x": X})[0], run(result.model, {"x": X})[0]) > 8


def test_layers_that_share_a_weight_store_it_once() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="first"),
        node("Relu", ["a"], ["r"]),
        node("MatMul", ["r", "w"], ["y"], name="second"),
    ]
    model = make_model(nodes, {"w": random(K, K) / 7}, inputs={"x": ["n", 5, K]}, outputs={"y": ["n", 5, K]})
    result = convert(model, recipe="dynamic")
    codes = [tensor for tensor in result.model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert len(codes) == 1
    assert sqnr_db(run(model, {"x": X})[0], run(result.model, {"x": X})[0]) > 28


def test_weights_with_zero_points() -> None:
    recipe = find_recipe("dynamic").with_solver(symmetric=False)
    result = convert(block(), recipe=recipe)
    assert sqnr_db(run(block(), {"x": X})[0], run(result.model, {"x": X})[0]) > 30


def test_convolutions_stay_in_float() -> None:
    images = random(8, 3, 12, 12)
    result = convert(small_cnn(), recipe="dynamic")
    assert operators(result.model).count("MatMulInteger") == 1
    assert sqnr_db(run(small_cnn(), {"input": images})[0], run(result.model, {"input": images})[0]) > 30


def recurrent(direction: str = "bidirectional", *, lengths: bool = False) -> onnx.ModelProto:
    """An LSTM over [time, n, K] whose last output goes to a Gemm."""
    hidden, count = 24, 2 if direction == "bidirectional" else 1
    reads = ["x", "w", "r", "b", "", "h", "c"] if lengths else ["x", "w", "r", "b"]
    nodes = [
        node("LSTM", reads, ["s", "last", ""], name="lstm", hidden_size=hidden, direction=direction),
        node("Transpose", ["last"], ["t"], perm=[1, 0, 2]),
        node("Flatten", ["t"], ["f"]),
        node("Gemm", ["f", "w2"], ["y"], name="head", transB=1),
    ]
    weights: dict[str, NDArray[Any]] = {
        "w": random(count, 4 * hidden, K) / 7,
        "r": random(count, 4 * hidden, hidden) / 5,
        "b": random(count, 8 * hidden) / 4,
        "w2": random(CLASSES, count * hidden),
    }
    if lengths:
        weights |= {name: random(count, 5, hidden) / 4 for name in ("h", "c")}
    return make_model(nodes, weights, inputs={"x": [6, 5, K]}, outputs={"y": [5, CLASSES]})


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [False, True])
def test_an_lstm_has_int8_weights(direction: str, lengths: bool) -> None:
    model = recurrent(direction, lengths=lengths)
    result = convert(model, recipe="dynamic")
    assert operators(result.model).count("DynamicQuantizeLSTM") == 1
    assert sqnr_db(run(model, {"x": X})[0], run(result.model, {"x": X})[0]) > 25
    report = {layer.name: layer for layer in result.layers}["lstm"]
    assert (report.bits, report.activation_bits, report.granularity, report.reason) == (8, 8, "channel", "")
    assert report.after_db is not None
    assert report.after_db > 35
    floats = convert(model, recipe="dynamic", exclude=["lstm"])
    assert len(result.model.SerializeToString()) < len(floats.model.SerializeToString()) / 1.5
    assert {layer.name: layer for layer in floats.layers}["lstm"].reason == "excluded by the recipe"


def test_fewer_bits_of_an_lstm_are_unpacked_at_load() -> None:
    model = recurrent()
    result = convert(model, recipe=find_recipe("dynamic").with_solver(bits=4))
    assert operators(result.model).count("DynamicQuantizeLSTM") == 1
    assert {layer.name: layer.stored_bits for layer in result.layers}["lstm"] == 4
    assert sqnr_db(run(model, {"x": X})[0], run(result.model, {"x": X})[0]) > 10


@pytest.mark.parametrize("op", ["GRU", "RNN"])
def test_other_recurrent_layers_multiply_floats(op: str) -> None:
    model, x = stacked(op), sequences()
    result = convert(model, recipe="dynamic")
    assert op in operators(result.model)
    report = {layer.name: layer for layer in result.layers}["rnn0"]
    assert (report.bits, report.stored_bits, report.activation_bits) == (8, 8, 32)
    assert sqnr_db(run(model, {"x": x})[0], run(result.model, {"x": x})[0]) > 30


def test_an_lstm_with_zero_points_multiplies_floats() -> None:
    result = convert(recurrent(), recipe=find_recipe("dynamic").with_solver(symmetric=False))
    assert "LSTM" in operators(result.model)
    assert sqnr_db(run(recurrent(), {"x": X})[0], run(result.model, {"x": X})[0]) > 25


def test_lstms_that_share_their_weights_store_them_once() -> None:
    model, x = stacked("LSTM", 2, shared=True), sequences()
    result = convert(model, recipe="dynamic")
    first, second = (each for each in result.model.graph.node if each.op_type == "DynamicQuantizeLSTM")
    assert [first.input[index] for index in (8, 10)] == [second.input[index] for index in (8, 10)]  # scales
    codes = [t for t in result.model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 3]
    assert len(codes) == 2
    assert sqnr_db(run(model, {"x": x})[0], run(result.model, {"x": x})[0]) > 25


def test_an_lstm_whose_weights_are_computed_stays_in_float() -> None:
    model = recurrent()
    model.graph.node[0].input[1] = "moved"
    model.graph.input.append(helper.make_tensor_value_info("moved", onnx.TensorProto.FLOAT, [2, 96, K]))
    result = convert(model, recipe="dynamic")
    assert "LSTM" in operators(result.model)


def test_tools_read_an_lstm(tmp_path: Path) -> None:
    convert(recurrent(), recipe="dynamic").save(tmp_path / "dynamic.onnx")
    layer = {layer.name: layer for layer in converter.inspect(tmp_path / "dynamic.onnx").layers}["lstm"]
    assert layer.op == "DynamicQuantizeLSTM"
    assert (layer.weight_bits, layer.storage, layer.granularity) == (8, "int8", "channel")
    assert (layer.activation_type, layer.fused, layer.on_integers) == ("uint8", True, True)
    with pytest.raises(ModelError, match=r"operators that compute on integers \(.*1 DynamicQuantizeLSTM"):
        convert(tmp_path / "dynamic.onnx", recipe="keep")


def test_tools_read_such_a_file(tmp_path: Path) -> None:
    onnx.save(block(), tmp_path / "float.onnx")
    convert(block(), recipe="dynamic").save(tmp_path / "dynamic.onnx")
    layers = {layer.name: layer for layer in converter.inspect(tmp_path / "dynamic.onnx").layers}
    assert set(layers) == {"query", "key", "head"}
    for layer in layers.values():
        assert (layer.weight_bits, layer.storage, layer.granularity) == (8, "int8", "channel")
        assert (layer.activation_type, layer.fused, layer.on_integers) == ("uint8", True, True)
    comparison = converter.compare(tmp_path / "float.onnx", tmp_path / "dynamic.onnx", X)
    assert {name for layer in comparison.layers for name in layer.layers} == {"query", "key", "head"}
    assert converter.evaluate([tmp_path / "float.onnx", tmp_path / "dynamic.onnx"], X, latency=False).models[1].sqnr_db
    assert converter.verify(tmp_path / "dynamic.onnx", "cpu").passed


@pytest.mark.parametrize("name", ["dynamic", "int8-weight-only", "int4-weight-only-rtn"])
def test_recipes_without_data(name: str) -> None:
    recipe = find_recipe(name)
    assert not recipe.needs_calibration
    result = convert(small_cnn(), recipe=name)
    assert not [layer.name for layer in result.layers if layer.reason]
    assert {layer.bits for layer in result.layers} == {4 if "int4" in name else 8}


@pytest.mark.parametrize("target", ["cpu-avx2", "openvino", "generic", "cuda"])
def test_targets_without_such_kernels_get_float_activations(target: str, caplog: pytest.LogCaptureFixture) -> None:
    result = convert(block(), recipe="dynamic", target=target)
    assert "MatMulInteger" not in operators(result.model)
    assert {layer.activation_bits for layer in result.layers} == {32}
    assert f"target {target} does not quantize activations in its runs" in caplog.text


@pytest.mark.parametrize("fields", [{"block_size": 16}, {"bits": 4, "block_size": 8, "two_level": True}])
def test_blocks_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="rtn: "):
        find_recipe("dynamic").with_pass(Rtn(**fields))
