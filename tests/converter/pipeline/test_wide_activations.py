"""Recipes of 16-bit activations, and single layers that get them."""

import dataclasses
import functools

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import converter
from converter.pipeline.result import Result
from converter.recipes.builtin import RECIPES
from converter.targets.catalog import find_target
from converter.verification.rules import violations
from passes.errors import TargetError
from tests.support.graphs import array
from tests.support.large_channel import images, network


@functools.cache
def converted(recipe: str, target: str = "qnn", aim: float | None = None) -> Result:
    settings = converter.Settings(min_sqnr=aim)
    return converter.convert(network(), images(), recipe=recipe, target=target, settings=settings)


def sqnr(result: Result) -> float:
    assert result.fidelity is not None
    assert result.fidelity.sqnr_db is not None
    return result.fidelity.sqnr_db


def test_16_bits_where_8_are_not_enough() -> None:
    narrow, wide = converted("int8"), converted("a16w8")
    assert sqnr(wide) >= sqnr(narrow) + 10
    assert {layer.activation_bits for layer in wide.layers} == {16}
    assert {layer.bits for layer in wide.layers} == {8}
    kinds = {tensor.data_type for tensor in wide.model.graph.initializer if "_zero_point" in tensor.name}
    assert TensorProto.UINT16 in kinds
    assert TensorProto.UINT8 not in kinds
    assert violations(wide.model, find_target("qnn")) == ()
    assert {each.fact for each in violations(wide.model, find_target("cpu"))} >= {"activation_bits"}
    assert {layer.activation_type for layer in converter.inspect(wide.model).layers} == {"uint16"}


def test_a_target_of_signed_symmetric_activations_gets_int16() -> None:
    result = converted("a16w8", "vitisai")
    zeros = [tensor for tensor in result.model.graph.initializer if tensor.data_type == TensorProto.INT16]
    assert zeros
    assert not any(numpy_helper.to_array(zero).any() for zero in zeros)
    assert violations(result.model, find_target("vitisai")) == ()
    assert sqnr(result) > sqnr(converted("int8", "vitisai")) + 10


def test_4_bits_with_16() -> None:
    result = converted("a16w4")
    assert {(layer.bits, layer.activation_bits) for layer in result.layers} == {(4, 16)}
    assert violations(result.model, find_target("qnn")) == ()
    assert sqnr(result) > sqnr(converted("int4")) + 1


def test_what_costs_most_gets_16_bits_on_a_target_that_has_them() -> None:
    before = sqnr(converted("int8"))
    result = converted("int8", aim=before + 8)
    assert sqnr(result) >= before + 8
    assert result.mending is not None
    assert "first" in result.mending.wide
    assert result.mending.activations == ()
    assert "nodes with activations of 16 bits: first" in result.mending.describe()
    assert {layer.activation_bits for layer in result.layers} == {8, 16}
    assert violations(result.model, find_target("qnn")) == ()
    again = converter.convert(network(), images(), recipe=result.recipe, target="qnn")
    assert again.model.graph.SerializeToString() == result.model.graph.SerializeToString()


@pytest.mark.parametrize("target", ["cpu", "generic", "web", "openvino", "tensorrt", "mobile", "xnnpack", "directml"])
def test_targets_without_16_bits_refuse_them(target: str) -> None:
    with pytest.raises(TargetError, match=r"no integer kernels for activations of 16 bits.*such as qnn"):
        converted("a16w8", target)


def test_a_recipe_names_layers_of_16_bits() -> None:
    passes = [step.widened(["first"]) if hasattr(step, "widened") else step for step in RECIPES["int8"].passes]
    recipe = dataclasses.replace(RECIPES["int8"], name="first-wide", passes=tuple(passes))
    result = converter.convert(network(), images(), recipe=recipe, target="qnn")
    assert {layer.name: layer.activation_bits for layer in result.layers} == {"first": 16, "second": 8, "head": 8}
    assert sqnr(result) > sqnr(converted("int8")) + 6


@pytest.mark.parametrize("joined", [False, True])
def test_sigmoids_of_qnn_write_16_bits_on_their_own_grid(joined: bool) -> None:
    """QNN requires it. A Concat behind one does not change it."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Sigmoid", ["c"], ["s"], name="sigmoid"),
        helper.make_node("Concat", ["s", "c"], ["y"], name="join", axis=1)
        if joined
        else helper.make_node("Mul", ["c", "s"], ["y"], name="silu"),
    ]
    weight = numpy_helper.from_array(0.1 * array(4, 3, 1, 1, seed=1), "w")
    shapes = ([1, 3, 8, 8], [1, 8 if joined else 4, 8, 8])
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in zip("xy", shapes, strict=True)
    ]
    graph = helper.make_graph(nodes, "silu", values[:1], values[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    result = converter.convert(model, array(32, 3, 8, 8), recipe="a16w8", target="qnn")
    types = {tensor.name: tensor.data_type for tensor in result.model.graph.initializer}
    widths = {
        node.input[0]: types[node.input[2]] for node in result.model.graph.node if node.op_type == "QuantizeLinear"
    }
    if not joined:  # HTP's 16-bit kernel of x * sigmoid(x) is wrong
        assert widths["s"] == TensorProto.UINT8
        assert {widths[name] for name in widths if name != "s" and not name.endswith("8bit")} >= {TensorProto.UINT16}
        return
    assert not list(violations(result.model, find_target("qnn")))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.model.graph.initializer}
    (quantizer,) = (
        node for node in result.model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "s"
    )
    assert [float(constants[name]) for name in quantizer.input[1:]] == [2.0**-16, 0]
    for tensor in result.model.graph.initializer:
        if tensor.name == quantizer.input[1]:
            tensor.CopyFrom(numpy_helper.from_array(np.array(2.0**-17, np.float32), tensor.name))
    (violation,) = violations(result.model, find_target("qnn"))
    assert (violation.fact, violation.what.endswith("need step 1.52588e-05 and zero point 0")) == ("wide_ranges", True)
