"""Operators that stay in float between integers, and their reasons."""

import dataclasses

import numpy as np
import onnx
import pytest

from tests.support.graphs import array, node
from tests.support.integer_rules import RULES
from tests.support.placed_graphs import POOL, conv, own, placed


def test_layers_left_in_float() -> None:
    nodes = [conv("x", "a", "c1"), conv("a", "b", "c2"), conv("b", "y", "c3")]
    placement = placed(nodes, float_layers=["c2"])
    assert placement.tensors == own("x", "a", "b", "y")
    assert placement.integer == {"c1", "c3"}
    assert placement.reasons == {"c2": "left in float by the recipe"}
    assert placed(nodes, float_layers=["c1", "c2", "c3"]).tensors == {}
    assert placed(nodes, float_layers=["c1", "c2"]).tensors == own("b", "y")


def test_a_layer_without_an_integer_kernel() -> None:
    nodes = [conv("x", "a", "c"), node("ConvTranspose", ["a", "up.w"], ["y"], name="up")]
    placement = placed(nodes)
    assert placement.tensors == own("x", "a")
    assert placement.reasons == {"up": "the target has no integer ConvTranspose"}
    assert placed(nodes, rules=dataclasses.replace(RULES, linear=frozenset())).tensors == {}


def test_a_grouped_transposed_convolution_has_no_integer_form() -> None:
    rules = dataclasses.replace(RULES, linear=RULES.linear | {"ConvTranspose"})
    for group, tensors in ((1, own("x", "a", "y")), (2, own("x", "a"))):
        nodes = [conv("x", "a", "c"), node("ConvTranspose", ["a", "up.w"], ["y"], name="up", group=group)]
        assert placed(nodes, {"up.w": array(4, 4 // group, 1, 1)}, rules).tensors == tensors


def test_convolutions_of_other_dimensions() -> None:
    flat = {"c.w": array(4, 4, 1)}
    rules = dataclasses.replace(RULES, conv_dims=frozenset({2, 3}))
    assert placed([conv("x", "y", "c")], flat, shape=["n", 4, 8]).tensors == own("x", "y")
    placement = placed([conv("x", "y", "c")], flat, rules, shape=["n", 4, 8])
    assert placement.reasons == {"c": "the target has no integer Conv of 1 dimension"}


def test_a_node_that_is_not_a_linear_layer() -> None:
    nodes = [conv("x", "a", "c"), node("MatMul", ["a", "a"], ["y"], name="attention")]
    assert placed(nodes).reasons == {"attention": "both operands are activations"}


FLOAT = {
    "prelu": (node("PRelu", ["a", "slope"], ["b"], name="op"), "the target has no integer PRelu"),
    "hard_swish": (node("HardSwish", ["a"], ["b"], name="op"), "the target has no integer HardSwish"),
    "softmax": (node("Softmax", ["a"], ["b"], name="op"), "the target has no integer Softmax"),
    "linear_resize": (
        node("Resize", ["a", "", "scales"], ["b"], name="op", mode="linear"),
        "only nearest Resize has an integer kernel",
    ),
    "constant_second": (node("Mul", ["a", "slope"], ["b"], name="op"), "one operand is a constant"),
    "constant_first": (node("Add", ["slope", "a"], ["b"], name="op"), "one operand is a constant"),
    "pool_indices": (node("MaxPool", ["a"], ["b", "where"], name="op", **POOL), "it also writes indices"),
}


@pytest.mark.parametrize(("item", "reason"), FLOAT.values(), ids=FLOAT.keys())
def test_operators_in_float_have_a_reason(item: onnx.NodeProto, reason: str) -> None:
    constants = {"slope": array(4, 1, 1), "scales": np.array([1, 1, 2, 2], np.float32)}
    used = {name: values for name, values in constants.items() if name in item.input}
    placement = placed([conv("x", "a", "c"), item, conv("b", "y", "d")], used)
    assert placement.reasons == {"op": reason}
    assert placement.tensors == own("x", "a", "b", "y")  # the next layer quantizes its input again
    assert placement.integer == {"c", "d"}


@pytest.mark.parametrize(
    "item",
    [
        node("Sigmoid", ["a"], ["y"], name="op"),
        node("Transpose", ["a"], ["y"], name="op"),
        node("Add", ["a", "x"], ["y"], name="op"),
    ],
    ids=lambda item: item.op_type,
)
def test_an_operator_that_writes_a_graph_output_stays_in_float(item: onnx.NodeProto) -> None:
    placement = placed([conv("x", "a", "c"), item])
    assert placement.reasons == {"op": "it writes a graph output"}
    assert placement.tensors == own("x", "a")


def test_operators_on_indices_are_not_candidates() -> None:
    nodes = [
        conv("x", "a", "c"),
        node("ArgMax", ["a"], ["i"], name="argmax", axis=1),
        node("Transpose", ["i"], ["y"], name="transpose"),
    ]
    placement = placed(nodes)
    assert placement.tensors == own("x", "a")
    assert placement.reasons == {"argmax": "the target has no integer ArgMax"}


def test_a_moving_operator_on_a_constant_has_a_reason() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["scales"], name="fc"),
        node("Resize", ["image", "", "scales"], ["r"], name="resize"),
        node("Tanh", ["r"], ["y"], name="tanh"),
    ]
    constants = {"w": array(4, 4), "image": array(1, 1, 2, 2)}
    placement = placed(nodes, constants, shape=(4,), output_shape=("a", "b", "c", "d"))
    assert placement.reasons == {"resize": "its first input is a constant"}
