"""Whole graphs with quantized activations: what onnxruntime runs, names, outputs and refusals."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from converter.qdq.floats import float_model
from converter.qdq.layer_forms import runs_on_integers
from converter.qdq.weights import STORAGES, Storage
from converter.qdq.writer import emit
from passes.errors import TargetError
from passes.numerics.error import sqnr_db
from passes.numerics.grid import ActivationGrid
from passes.weights.gptq import Gptq
from passes.weights.rtn import Rtn
from tests.support.networks import (
    LAYERS,
    branches,
    conv,
    images,
    initializers,
    network,
    optimized,
    prepared,
    quantize,
    random,
    resnet,
    run,
    set_ranges,
    shape_branch,
    single,
)

X = images(16, 3, 12, 12)


def names(proto: onnx.ModelProto) -> list[str]:
    """Nodes in the file's order."""
    return [node.name for node in proto.graph.node]


def outputs(proto: onnx.ModelProto) -> list[str]:
    return [value.name for value in proto.graph.output]


def two_convs(
    between: list[onnx.NodeProto], result: str, outputs: dict[str, list[int | str]], **values: float
) -> onnx.ModelProto:
    """x -> first -> `between` -> second; ``result`` is what the second reads."""
    constants: dict[str, NDArray[Any]] = {name: np.array(value, np.float32) for name, value in values.items()}
    nodes = [
        conv(constants, "first", "x", "a", (6, 3, 3, 3)),
        *between,
        conv(constants, "second", result, "y", (4, 6, 3, 3)),
    ]
    return network(nodes, constants, {"x": ["N", 3, 12, 12]}, outputs)


# ------------------------------------------------------------------- what onnxruntime runs


@pytest.mark.parametrize(("bits", "storage"), [(8, "int8"), (4, "cast"), (2, "cast")])
def test_a_resnet_runs_on_integers_from_end_to_end(bits: int, storage: Storage, tmp_path: Path) -> None:
    proto = emit(quantize(resnet(), Rtn(bits=bits), X, ranges=True), storage)
    # one QuantizeLinear for the image, two Transposes around the channels-last kernels, and no float operator
    assert optimized(proto, tmp_path) == {
        "QuantizeLinear": 1,
        "Transpose": 2,
        "QLinearConv": 6,
        "NhwcMaxPool": 1,
        "QLinearAdd": 1,
        "QLinearSigmoid": 1,
        "QLinearMul": 1,
        "QLinearConcat": 1,
        "QLinearGlobalAveragePool": 1,
        "Flatten": 1,
        "QGemm": 1,
    }


def test_absorbed_clamps_are_gone_from_the_file() -> None:
    model = quantize(resnet(), Rtn(bits=8), X, ranges=True)
    proto = emit(model, "int8")
    assert not {"Relu", "Clip"} & {node.op_type for node in proto.graph.node}
    for name in ("stem_relu", "block1_relu", "sum_relu", "deep6", "last_relu"):
        assert model.activation_qparams[name].zero_point == 0
    assert not {"zero", "six"} & set(initializers(proto))
    # the activations alone are rounded to 8 bits ten times over: 8 bits are 40 dB, ten of them 30
    assert sqnr_db(run(resnet(), X)[0], run(proto, X)[0]) > 35


def test_cast_storage_of_a_network_is_bit_identical_to_int8_storage() -> None:
    model = quantize(resnet(), Gptq(bits=4), X, ranges=True)
    cast, plain = emit(model, "cast"), emit(model, "int8")
    assert cast.ByteSize() < plain.ByteSize()
    np.testing.assert_array_equal(run(cast, X)[0], run(plain, X)[0])


def test_a_fixed_batch_size(tmp_path: Path) -> None:
    proto = emit(quantize(resnet(batch=4), Rtn(bits=4), images(6, 3, 12, 12), ranges=True))
    assert optimized(proto, tmp_path)["QLinearConv"] == 6


def test_shape_arithmetic_stays_as_it_is(tmp_path: Path) -> None:
    x = images(5, 3, 8, 8)
    proto = emit(quantize(shape_branch(), Rtn(bits=8), x, ranges=True), "int8")
    operators = optimized(proto, tmp_path)
    assert operators["QLinearConv"] == 2
    assert not operators["Conv"]
    assert sqnr_db(run(shape_branch(), x)[0], run(proto, x)[0]) > 30


def test_operators_without_an_integer_kernel_stay_float(tmp_path: Path) -> None:
    data = {"a": images(8, 3, 8, 8), "b": images(8, 4)}
    proto = emit(quantize(branches(), Rtn(bits=8), data, ranges=True), "int8")
    operators = optimized(proto, tmp_path)
    assert (operators["QLinearConv"], operators["QGemm"]) == (3, 2)
    assert (operators["Sub"], operators["Tanh"], operators["Conv"]) == (1, 1, 0)
    for expected, actual in zip(run(branches(), data), run(proto, data), strict=True):
        assert sqnr_db(expected, actual) > 28


@pytest.mark.parametrize("low", [-1.0, -0.25])
def test_a_clip_below_zero_is_computed_right(low: float) -> None:
    clip = helper.make_node("Clip", ["a", "low", "high"], ["clipped"], "clip")
    proto = two_convs([clip], "clipped", {"y": ["N", 4, 12, 12]}, low=low, high=0.5)
    quantized = emit(quantize(proto, Rtn(bits=8), X, ranges=True), "int8")
    assert sqnr_db(run(proto, X)[0], run(quantized, X)[0]) > 30


def test_a_relu_is_kept_where_its_grid_reaches_below_zero() -> None:
    proto = two_convs([helper.make_node("Relu", ["a"], ["relu"], "relu")], "relu", {"y": ["N", 4, 12, 12]})
    model = quantize(proto, Rtn(bits=8), X, ranges=True)
    high = model.activation_qparams["relu"].high
    model.activation_qparams["relu"] = ActivationGrid.of(-high, high)
    assert "relu" in names(emit(model, "int8"))
    assert sqnr_db(run(proto, X)[0], run(emit(model, "int8"), X)[0]) > 30


def test_a_relu_is_kept_where_its_input_has_other_readers() -> None:
    nodes = [helper.make_node("Relu", ["a"], ["relu"], "relu"), helper.make_node("Add", ["a", "relu"], ["sum"], "add")]
    proto = two_convs(nodes, "sum", {"y": ["N", 4, 12, 12]})
    quantized = emit(quantize(proto, Rtn(bits=8), X, ranges=True), "int8")
    assert "relu" in names(quantized)
    assert sqnr_db(run(proto, X)[0], run(quantized, X)[0]) > 30


def test_a_layer_left_in_float_keeps_its_weight() -> None:
    model = prepared(resnet())
    model.float_reasons["block.conv1"] = "a test says so"
    set_ranges(model, X)
    quantized = quantize(resnet(), Rtn(bits=4), X, ranges=True)
    model.quantized = {name: value for name, value in quantized.quantized.items() if name != "block.conv1"}
    proto = emit(model)
    original = initializers(resnet())["block.conv1.weight"]
    assert initializers(proto)["block.conv1.weight"].raw_data == original.raw_data
    (node,) = [node for node in proto.graph.node if node.name == "block.conv1"]
    assert list(node.input) == ["pooled_floats", "block.conv1.weight", "block.conv1.bias"]
    assert not runs_on_integers(model, model.layers()["block.conv1"])
    assert runs_on_integers(model, model.layers()["block.conv2"])


# ------------------------------------------------------------------- inputs, outputs, names


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("ranges", [True, False], ids=["integer", "weight_only"])
def test_the_interface_keeps_its_names_and_types(storage: Storage, ranges: bool) -> None:
    for original, data in (
        (resnet(), X),
        (branches(), {"a": images(8, 3, 8, 8), "b": images(8, 4)}),
        (branches(batch=2), {"a": images(8, 3, 8, 8), "b": images(8, 4)}),
    ):
        proto = emit(quantize(original, Rtn(bits=4), data, ranges=ranges), storage)
        onnx.checker.check_model(proto, full_check=True)
        assert list(proto.graph.input) == list(original.graph.input)
        assert list(proto.graph.output) == list(original.graph.output)
        assert len(set(names(proto))) == len(proto.graph.node)
        written = [name for node in proto.graph.node for name in node.output]
        assert len({*written, *initializers(proto)}) == len(written) + len(proto.graph.initializer)


def test_a_quantized_output_that_is_read_on_keeps_its_name(tmp_path: Path) -> None:
    """Both the caller and the second Conv get the rounded tensor."""
    proto = two_convs([], "a", {"a": ["N", 6, 12, 12], "y": ["N", 4, 12, 12]})
    model = quantize(proto, Rtn(bits=8), X, ranges=True)
    quantized = emit(model, "int8")
    assert outputs(quantized) == ["a", "y"]
    assert "a_unquantized" in {name for node in quantized.graph.node for name in node.output}
    (second,) = [node for node in quantized.graph.node if node.name == "second"]
    assert second.input[0] == "a"
    actual = run(quantized, X)
    np.testing.assert_array_equal(actual[0], model.activation_qparams["a"].values(actual[0]))
    for expected, value in zip(run(proto, X), actual, strict=True):
        assert sqnr_db(expected, value) > 32
    assert optimized(quantized, tmp_path)["QLinearConv"] == 2


def test_an_absorbed_relu_that_is_an_output_and_read_on(tmp_path: Path) -> None:
    relu = helper.make_node("Relu", ["a"], ["relu"], "relu")
    proto = two_convs([relu], "relu", {"relu": ["N", 6, 12, 12], "y": ["N", 4, 12, 12]})
    quantized = emit(quantize(proto, Rtn(bits=8), X, ranges=True), "int8")
    assert "relu" not in names(quantized)
    actual = run(quantized, X)
    assert actual[0].min() == 0
    for expected, value in zip(run(proto, X), actual, strict=True):
        assert sqnr_db(expected, value) > 32
    assert optimized(quantized, tmp_path)["QLinearConv"] == 2


def test_a_relu_whose_input_is_an_output_is_kept() -> None:
    relu = helper.make_node("Relu", ["a"], ["relu"], "relu")
    proto = two_convs([relu], "relu", {"a": ["N", 6, 12, 12], "y": ["N", 4, 12, 12]})
    actual = run(emit(quantize(proto, Rtn(bits=8), X, ranges=True), "int8"), X)
    assert actual[0].min() < 0
    for expected, value in zip(run(proto, X), actual, strict=True):
        assert sqnr_db(expected, value) > 32


def test_names_follow_the_tensor_they_belong_to() -> None:
    proto = emit(quantize(single("conv2d"), Rtn(bits=4), images(4, 6, 9, 8), ranges=True))
    assert names(proto) == [
        "x_quantize",
        "x_dequantize",
        "w_cast",
        "w_dequantize",
        "b_dequantize",
        "layer",
        "y_quantize",
        "y_dequantize",
    ]
    wires = {node.name: (list(node.input), list(node.output)) for node in proto.graph.node}
    assert wires == {
        "x_quantize": (["x", "x_scale", "x_zero_point"], ["x_quantized"]),
        "x_dequantize": (["x_quantized", "x_scale", "x_zero_point"], ["x_dequantized"]),
        "w_cast": (["w_int4"], ["w_int8"]),
        "w_dequantize": (["w_int8", "w_scale", "w_zero_point"], ["w_dequantized"]),
        "b_dequantize": (["b_int32", "b_scale", "b_zero_point"], ["b_dequantized"]),
        "layer": (["x_dequantized", "w_dequantized", "b_dequantized"], ["y_unquantized"]),
        "y_quantize": (["y_unquantized", "y_scale", "y_zero_point"], ["y_quantized"]),
        "y_dequantize": (["y_quantized", "y_scale", "y_zero_point"], ["y"]),
    }
    kinds = {name: tensor.data_type for name, tensor in initializers(proto).items()}
    assert kinds["w_int4"] == TensorProto.INT4
    assert kinds["w_zero_point"] == TensorProto.INT8
    assert kinds["b_int32"] == kinds["b_zero_point"] == TensorProto.INT32
    assert kinds["x_zero_point"] == kinds["y_zero_point"] == TensorProto.UINT8


def test_weight_only_names() -> None:
    proto = emit(quantize(single("conv2d"), Rtn(bits=4, block_size=10, symmetric=False), images(4, 6, 9, 8)))
    assert names(proto) == ["w_cast", "w_center", "w_rescale", "w_flatten", "w_crop", "w_reshape", "layer"]
    assert proto.producer_name == "convert-onnx"


@pytest.mark.parametrize(("written", "kept"), [(17, 21), (21, 21), (22, 22)])
def test_the_opset_is_raised_but_never_lowered(written: int, kept: int) -> None:
    original = network(
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv")],
        {"w": random(4, 3, 3, 3)},
        {"x": ["N", 3, 8, 8]},
        {"y": ["N", 4, 6, 6]},
        opset=written,
    )
    proto = emit(quantize(original, Rtn(bits=4), images(4, 3, 8, 8), ranges=True))
    assert {entry.domain: entry.version for entry in proto.opset_import} == {"": kept}
    assert proto.ir_version >= 10
    onnx.checker.check_model(proto, full_check=True)


def test_the_model_can_be_written_again() -> None:
    """`emit` does not change the model, so every storage form starts from the same one."""
    model = quantize(resnet(), Gptq(bits=4), X, ranges=True)
    before = float_model(model.graph).SerializeToString(deterministic=True)
    first = emit(model).SerializeToString(deterministic=True)
    for storage in STORAGES:
        emit(model, storage)
    assert emit(model).SerializeToString(deterministic=True) == first
    assert float_model(model.graph).SerializeToString(deterministic=True) == before


# ------------------------------------------------------------------- refusals


@pytest.mark.parametrize("storage", STORAGES)
def test_block_scales_under_integer_activations_are_refused(storage: Storage) -> None:
    model = quantize(single("conv2d"), Rtn(bits=4, block_size=16), images(4, 6, 9, 8))
    set_ranges(model, images(4, 6, 9, 8))
    with pytest.raises(
        TargetError, match="layer: no integer kernel reads scales of blocks; give two_level = true as well"
    ):
        emit(model, storage)


@pytest.mark.parametrize("storage", STORAGES)
def test_asymmetric_weights_under_integer_activations_are_refused(storage: Storage) -> None:
    model = quantize(single("conv2d"), Rtn(bits=4, symmetric=False), images(4, 6, 9, 8))
    set_ranges(model, images(4, 6, 9, 8))
    with pytest.raises(TargetError, match="layer: integer kernels need symmetric weights; use symmetric = true"):
        emit(model, storage)


def test_weights_with_zero_points_where_the_target_takes_them() -> None:
    model = quantize(single("conv2d"), Rtn(bits=4, symmetric=False), images(4, 6, 9, 8))
    x = images(4, 6, 9, 8)
    expected = run(float_model(model.graph), x)  # the graph holds the dequantized weights
    set_ranges(model, x)
    model.rules = dataclasses.replace(model.rules, weight_zero_points=True)
    assert sqnr_db(expected[0], run(emit(model), x)[0]) > 30  # two tensors of 8 bits


@pytest.mark.parametrize(
    ("kernel", "wanted", "axis"),
    [("conv2d", "Conv", 0), ("gemm", "Gemm", 1), ("gemm_transposed", "Gemm transB", 0), ("matmul", "MatMul", 1)],
)
def test_scales_along_another_axis_than_the_target_s_are_refused(kernel: str, wanted: str, axis: int) -> None:
    x = LAYERS[kernel].images()
    model = quantize(single(kernel), Rtn(bits=8), x)
    set_ranges(model, x)
    model.rules = dataclasses.replace(model.rules, channel_axes={**model.rules.channel_axes, wanted: 1 - axis})
    expected = f"layer: the scales of its weight lie along axis {axis}, the target wants them along axis {1 - axis}; "
    with pytest.raises(TargetError, match=expected + "leave it out with an exclude pass"):
        emit(model)


def test_a_target_that_reads_no_int8_weights() -> None:
    model = quantize(single("conv2d"), Rtn(bits=8), images(4, 6, 9, 8))
    set_ranges(model, images(4, 6, 9, 8))
    model.rules = dataclasses.replace(model.rules, weight_types=frozenset({"uint8"}))
    with pytest.raises(TargetError, match="layer: weights are written as int8, the target reads uint8; leave it out"):
        emit(model)
