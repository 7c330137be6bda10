"""Recipe `fp16`, and `Settings.float16` for what stays in float in a quantized file."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import converter
from converter.pipeline.result import Result
from converter.recipes.builtin import RECIPES
from passes.errors import UsageError
from tests.support.graphs import array, build, node
from tests.support.outlier_network import SHAPE, residual

DATA = array(16, *SHAPE)


@functools.cache
def converted(target: str, *exclude: str, recipe: str = "fp16", float16: bool = False) -> Result:
    settings = converter.Settings(float16=float16)
    return converter.convert(residual(), DATA, recipe=recipe, target=target, exclude=exclude, settings=settings)


def sqnr(result: Result) -> float:
    assert result.fidelity is not None
    assert result.fidelity.sqnr_db is not None
    return result.fidelity.sqnr_db


@pytest.mark.parametrize("target", ["cuda", "qnn", "tensorrt"])
def test_a_gpu_computes_in_float16(target: str) -> None:
    result = converted(target)
    assert {(layer.bits, layer.stored_bits, layer.activation_bits) for layer in result.layers} == {(16, 16, 16)}
    assert sqnr(result) > 55  # 11 bits
    assert result.model.ByteSize() < 0.6 * residual().ByteSize()
    assert {each.weight_bits for each in converter.inspect(result.model).layers} == {16}
    assert "every float node computes in float16" in result.passes[-1].notes
    assert {value.type.tensor_type.elem_type for value in result.model.graph.input} == {TensorProto.FLOAT}


def test_the_cpu_stores_float16_and_computes_in_float32() -> None:
    result = converted("cpu")
    assert {(layer.bits, layer.stored_bits, layer.activation_bits) for layer in result.layers} == {(16, 16, 32)}
    assert sqnr(result) > 65
    assert result.model.ByteSize() < 0.6 * residual().ByteSize()
    assert "the target computes in float32; constants are stored as float16" in result.passes[-1].notes[-1]


def test_an_excluded_layer_stays_in_float32() -> None:
    result = converted("cuda", "second")
    bits = {layer.name: layer.bits for layer in result.layers}
    assert bits == {"first": 16, "second": 32, "head": 16}
    assert result.float16 == "1 node in float32: 1: excluded by the recipe"
    assert converted("cpu", recipe="int8").float16 == ""
    assert result.passes[-1].notes[-1] == "1 node in float32: 1: excluded by the recipe"


def test_values_that_float16_does_not_hold_stay_in_float32() -> None:
    model = residual()
    for tensor in model.graph.initializer:
        if tensor.name == "w1":
            tensor.CopyFrom(numpy_helper.from_array(5000 * numpy_helper.to_array(tensor), "w1"))
    result = converter.convert(model, DATA, recipe="fp16", target="cuda")
    assert {layer.name: layer.bits for layer in result.layers} == {"first": 32, "second": 32, "head": 32}
    assert sqnr(result) > 55
    assert "and float16 ends at 65504" in result.passes[-1].notes[-1]


def test_values_beside_an_infinity_count() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["scores"], name="scores"),
        node("Less", ["x", "zero"], ["mask"], name="mask"),
        node("Where", ["mask", "least", "scores"], ["masked"], name="where"),
        node("Softmax", ["masked"], ["y"], name="softmax"),
    ]
    constants = {"w": 2e5 * np.eye(8, dtype=np.float32) / 4, "zero": np.float32(0), "least": np.float32(-np.inf)}
    model = build(nodes, {name: np.asarray(value, np.float32) for name, value in constants.items()}, (4, 8))
    data = np.abs(array(16, 8)).clip(0.5, 4)
    data[:, 0], data[:, 1] = -1, 4
    result = converter.convert(model, data, recipe="fp16", target="cuda")
    written = {each.op_type: each for each in result.model.graph.node}
    assert not any(
        "float16" in name for op in ("Where", "Softmax") for name in (*written[op].input, *written[op].output)
    )
    assert "and float16 ends at 65504" in result.float16


def test_what_stays_in_float_beside_integers() -> None:
    plain = converted("cpu", "head", recipe="int8")
    halved = converted("cpu", "head", recipe="int8", float16=True)
    assert {layer.name: layer.bits for layer in halved.layers} == {"first": 8, "second": 8, "head": 16}
    assert halved.model.ByteSize() < plain.model.ByteSize() - 30_000
    assert abs(sqnr(plain) - sqnr(halved)) < 0.5


def test_weights_only_on_a_gpu_are_multiplied_in_float16() -> None:
    result = converted("cuda", recipe="int4-weight-only-rtn", float16=True)
    exact = converted("cuda", recipe="int4-weight-only-rtn")
    assert {layer.bits for layer in result.layers} == {4}
    assert abs(sqnr(result) - sqnr(exact)) < 0.5
    assert {each.activation_type for each in converter.inspect(result.model).layers} == {"float16"}


def test_a_file_of_float16_is_read_again(tmp_path: Path) -> None:
    for target in ("cuda", "cpu"):
        path = tmp_path / f"{target}.onnx"
        converted(target).save(path)
        assert sqnr(converter.convert(path, DATA, recipe="int8")) > 25
        onnx.checker.check_model(path, full_check=True)


def test_what_has_no_effect_is_refused() -> None:
    with pytest.raises(UsageError, match="recipe 'fp16' quantizes nothing, so `bits=` has no effect"):
        converter.convert(residual(), recipe="fp16", bits={"first": 8})
    with pytest.raises(UsageError, match="recipe 'fp16' has only one result"):
        converter.convert_within(residual(), DATA, recipe="fp16", budget=converter.Budget(max_drop=1))


def test_no_data_is_needed() -> None:
    result = converter.convert(residual(), recipe="fp16", target="cuda")
    assert {layer.bits for layer in result.layers} == {16}
    assert np.isfinite(sqnr(result))


def test_a_file_with_two_bit_blocks_says_what_it_needs() -> None:
    model = build([node("MatMul", ["x", "w"], ["y"], name="layer")], {"w": array(64, 8)}, (4, 64))
    recipe = RECIPES["int4-matmulnbits"].with_solver(bits=2)
    result = converter.convert(model, array(16, 64), recipe=dataclasses.replace(recipe, name="two"))
    assert "MatMulNBits with 2-bit codes: the file needs an onnxruntime newer than 1.23" in result.passes[-1].notes
