"""Clamps that a grid does the work of, and those that it cannot."""

import dataclasses

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from passes.activations.placement import Placement, clamp_bounds
from tests.support.graphs import node
from tests.support.integer_rules import RULES
from tests.support.placed_graphs import INFINITY, conv, gemm, own, placed


def test_a_relu_is_absorbed() -> None:
    found = placed([conv("x", "a", "c"), node("Relu", ["a"], ["y"], name="relu")])
    assert found == Placement(own("x", "y"), {"y": (0.0, INFINITY)}, frozenset({"c", "relu"}), {})


@pytest.mark.parametrize(
    ("limits", "bounds"),
    [
        ({"low": 0.0, "high": 6.0}, (0.0, 6.0)),
        ({"low": -1.0, "high": 1.0}, (-1.0, 1.0)),
        ({"": 0, "high": 6.0}, (-INFINITY, 6.0)),
        ({"low": -0.5}, (-0.5, INFINITY)),
    ],
)
def test_a_clip_around_zero_is_absorbed(limits: dict[str, float], bounds: tuple[float, float]) -> None:
    constants = {name: np.float32(value) for name, value in limits.items() if name}
    found = placed(
        [conv("x", "a", "c"), node("Clip", ["a", *limits], ["y"], name="clip")],
        {name: np.asarray(value) for name, value in constants.items()},
    )
    assert found == Placement(own("x", "y"), {"y": bounds}, frozenset({"c", "clip"}), {})


def test_a_clip_that_excludes_zero_is_not_absorbed() -> None:
    """No grid holds 1..6 without zero, so saturation cannot do it."""
    limits = {"low": np.asarray(1.0, np.float32), "high": np.asarray(6.0, np.float32)}
    found = placed([conv("x", "a", "c"), node("Clip", ["a", "low", "high"], ["y"], name="clip")], limits)
    assert found.tensors == own("x", "a")
    assert found.bounds == {}
    assert found.reasons == {"clip": "the target has no integer Clip"}


def test_a_clip_with_computed_bounds_is_not_absorbed() -> None:
    nodes = [
        conv("x", "a", "c"),
        node("ReduceMax", ["x"], ["high"], name="max", keepdims=0),
        node("Clip", ["a", "", "high"], ["y"], name="clip"),
    ]
    found = placed(nodes)
    assert found.tensors == own("x", "a")
    assert found.reasons["clip"] == "the target has no integer Clip"


def test_an_operator_that_may_not_be_absorbed_stays() -> None:
    rules = dataclasses.replace(RULES, absorbable=frozenset({"Clip"}))
    found = placed([conv("x", "a", "c"), node("Relu", ["a"], ["y"], name="relu")], rules=rules)
    assert found.tensors == own("x", "a")
    assert found.reasons == {"relu": "the target has no integer Relu"}


def test_what_is_read_twice_before_the_relu_is_quantized_itself() -> None:
    nodes = [
        conv("x", "a", "c"),
        node("Relu", ["a"], ["b"], name="relu"),
        conv("a", "d", "d"),
        node("Add", ["b", "d"], ["e"], name="add"),
        conv("e", "y", "last"),
    ]
    found = placed(nodes)
    assert found.tensors == own("x", "a", "d", "b", "e", "y")
    assert found.bounds == {}
    assert found.reasons == {"relu": "the target has no integer Relu"}
    assert found.integer == {"c", "d", "add", "last"}


def test_what_leaves_the_graph_before_the_relu_is_quantized_itself() -> None:
    nodes = [conv("x", "a", "c"), node("Relu", ["a"], ["b"], name="relu"), conv("b", "y", "d")]
    found = placed(nodes, outputs=("y", "a"))
    assert found.tensors == own("x", "a", "b", "y")
    assert found.bounds == {}


def test_only_the_first_of_two_clamps_is_absorbed() -> None:
    nodes = [
        conv("x", "a", "c"),
        node("Relu", ["a"], ["b"], name="first"),
        node("Relu", ["b"], ["y"], name="second"),
    ]
    found = placed(nodes)
    assert found.tensors == own("x", "b")
    assert found.reasons == {"second": "the target has no integer Relu"}


def test_a_relu_on_the_logits_is_absorbed_as_anywhere() -> None:
    nodes = [gemm("x", "a"), node("Relu", ["a"], ["y"], name="relu")]
    found = placed(nodes, shape=(2, 4))
    assert found.tensors == own("x", "y")
    assert found.bounds == {"y": (0.0, INFINITY)}


@pytest.mark.parametrize("op", ["Tanh", "Conv"])
def test_clamp_bounds_of_what_does_not_clamp(op: str) -> None:
    assert clamp_bounds(gs.Node(op, inputs=[gs.Variable("x")])) is None
