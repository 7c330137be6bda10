"""Clamps that are absorbed by a grid, and clamps that cannot be."""

import dataclasses

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from passes.activations.placement import Placement, clamp_bounds
from tests.support.graphs import node
from tests.support.integer_rules import RULES
from tests.support.placed_graphs import INFINITY, conv, gemm, own, placed


def test_a_relu_is_absorbed() -> None:
    placement = placed([conv("x", "a", "c"), node("Relu", ["a"], ["y"], name="relu")])
    assert placement == Placement(own("x", "y"), {"y": (0.0, INFINITY)}, frozenset({"c", "relu"}), {})


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
    placement = placed(
        [conv("x", "a", "c"), node("Clip", ["a", *limits], ["y"], name="clip")],
        {name: np.asarray(value) for name, value in constants.items()},
    )
    assert placement == Placement(own("x", "y"), {"y": bounds}, frozenset({"c", "clip"}), {})


def test_a_clip_that_excludes_zero_is_not_absorbed() -> None:
    """Every grid includes zero, so saturation cannot clamp to 1..6."""
    limits = {"low": np.asarray(1.0, np.float32), "high": np.asarray(6.0, np.float32)}
    placement = placed([conv("x", "a", "c"), node("Clip", ["a", "low", "high"], ["y"], name="clip")], limits)
    assert placement.tensors == own("x", "a")
    assert placement.bounds == {}
    assert placement.reasons == {"clip": "the target has no integer Clip"}


def test_a_clip_with_computed_bounds_is_not_absorbed() -> None:
    nodes = [
        conv("x", "a", "c"),
        node("ReduceMax", ["x"], ["high"], name="max", keepdims=0),
        node("Clip", ["a", "", "high"], ["y"], name="clip"),
    ]
    placement = placed(nodes)
    assert placement.tensors == own("x", "a")
    assert placement.reasons["clip"] == "the target has no integer Clip"


def test_an_operator_that_may_not_be_absorbed_stays() -> None:
    rules = dataclasses.replace(RULES, absorbable=frozenset({"Clip"}))
    placement = placed([conv("x", "a", "c"), node("Relu", ["a"], ["y"], name="relu")], rules=rules)
    assert placement.tensors == own("x", "a")
    assert placement.reasons == {"relu": "the target has no integer Relu"}


def test_a_tensor_with_a_second_reader_before_the_relu_is_quantized() -> None:
    nodes = [
        conv("x", "a", "c"),
        node("Relu", ["a"], ["b"], name="relu"),
        conv("a", "d", "d"),
        node("Add", ["b", "d"], ["e"], name="add"),
        conv("e", "y", "last"),
    ]
    placement = placed(nodes)
    assert placement.tensors == own("x", "a", "d", "b", "e", "y")
    assert placement.bounds == {}
    assert placement.reasons == {"relu": "the target has no integer Relu"}
    assert placement.integer == {"c", "d", "add", "last"}


def test_a_graph_output_before_the_relu_is_quantized() -> None:
    nodes = [conv("x", "a", "c"), node("Relu", ["a"], ["b"], name="relu"), conv("b", "y", "d")]
    placement = placed(nodes, outputs=("y", "a"))
    assert placement.tensors == own("x", "a", "b", "y")
    assert placement.bounds == {}


def test_only_the_first_of_two_clamps_is_absorbed() -> None:
    nodes = [
        conv("x", "a", "c"),
        node("Relu", ["a"], ["b"], name="first"),
        node("Relu", ["b"], ["y"], name="second"),
    ]
    placement = placed(nodes)
    assert placement.tensors == own("x", "b")
    assert placement.reasons == {"second": "the target has no integer Relu"}


def test_a_relu_on_the_logits_is_absorbed() -> None:
    nodes = [gemm("x", "a"), node("Relu", ["a"], ["y"], name="relu")]
    placement = placed(nodes, shape=(2, 4))
    assert placement.tensors == own("x", "y")
    assert placement.bounds == {"y": (0.0, INFINITY)}


@pytest.mark.parametrize("op", ["Tanh", "Conv"])
def test_other_nodes_have_no_clamp_bounds(op: str) -> None:
    assert clamp_bounds(gs.Node(op, inputs=[gs.Variable("x")])) is None
