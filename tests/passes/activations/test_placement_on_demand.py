"""Rules that only some targets have: integers only if a layer reads them, and products with scalars."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.activations.placement import Placement, place, scale_factor
from passes.ir.linear import linear_layers
from tests.support.graphs import array, build, node
from tests.support.integer_rules import RULES

ON_DEMAND = dataclasses.replace(RULES, on_demand=True, scalars=True)
ROWS = (2, 4)
VALUES = {
    "w0": array(4, 4),
    "w1": array(4, 4, seed=1),
    "k0": array(4, 4, 1, 1),
    "k1": array(4, 4, 1, 1, seed=1),
    "third": np.asarray(1 / 3, np.float32),
    "two": np.asarray([2.0], np.float32),
    "minus": np.asarray(-1.0, np.float32),
    "zero": np.asarray(0.0, np.float32),
    "many": array(4, 1, 1),
}


def placed(nodes: Sequence[onnx.NodeProto], shape: Sequence[int] = ROWS) -> Placement:
    used = {name: value for name, value in VALUES.items() if any(name in item.input for item in nodes)}
    graph = gs.import_onnx(build(nodes, used, shape))
    return place(graph, ON_DEMAND, frozenset(linear_layers(graph)))


def dense(source: str, result: str, weight: str) -> onnx.NodeProto:
    return node("MatMul", [source, weight], [result], name=f"dense_{result}")


def conv(source: str, result: str, weight: str) -> onnx.NodeProto:
    return node("Conv", [source, weight], [result], name=f"conv_{result}")


def test_a_product_that_only_floats_read_is_not_rounded() -> None:
    placement = placed([dense("x", "a", "w0"), node("Erf", ["a"], ["b"], name="erf"), dense("b", "y", "w1")])
    assert dict(placement.tensors) == {"x": "x", "b": "b"}
    assert {"dense_a", "dense_y"} <= placement.integer


def test_a_product_that_a_layer_reads_is_rounded() -> None:
    placement = placed([dense("x", "a", "w0"), node("Relu", ["a"], ["b"], name="relu"), dense("b", "y", "w1")])
    assert dict(placement.tensors) == {"x": "x", "b": "b"}
    assert "relu" in placement.integer


def test_a_layer_behind_operators_with_kernels_counts_as_a_reader() -> None:
    nodes = [
        dense("x", "a", "w0"),
        node("Sigmoid", ["a"], ["b"], name="gate"),
        node("Transpose", ["b"], ["c"], name="turn", perm=[1, 0]),
        node("Transpose", ["c"], ["d"], name="back", perm=[1, 0]),
        dense("d", "y", "w1"),
    ]
    placement = placed(nodes)
    assert dict(placement.tensors) == {"x": "x", "a": "a", "b": "b", "c": "b", "d": "b"}
    assert {"gate", "turn", "back"} <= placement.integer


def test_boxes_and_scores_are_joined_in_float() -> None:
    """A grid for 0 to 640 has no codes for scores of 0 to 1."""
    nodes = [
        conv("x", "boxes", "k0"),
        conv("x", "logits", "k1"),
        node("Sigmoid", ["logits"], ["scores"], name="sigmoid"),
        node("Concat", ["boxes", "scores"], ["joined"], name="head", axis=1),
        node("Transpose", ["joined"], ["y"], name="last", perm=[0, 2, 3, 1]),
    ]
    placement = placed(nodes, (1, 4, 3, 3))
    assert dict(placement.tensors) == {"x": "x", "boxes": "boxes", "logits": "logits"}
    assert placement.reasons["head"] == "no layer reads its result on integers"
    assert placement.reasons["sigmoid"] == "no layer reads its result on integers"


def test_a_concat_that_a_layer_reads_runs_on_integers() -> None:
    nodes = [
        conv("x", "a", "k0"),
        node("Concat", ["a", "x"], ["b"], name="join", axis=0),
        conv("b", "y", "k1"),
    ]
    assert "join" in placed(nodes, (1, 4, 3, 3)).integer


def test_a_product_with_a_scalar_has_the_codes_of_its_operand() -> None:
    nodes = [
        conv("x", "a", "k0"),
        node("Mul", ["third", "a"], ["b"], name="scaled"),
        node("Div", ["b", "two"], ["c"], name="halved"),
        conv("c", "y", "k1"),
    ]
    placement = placed(nodes, (1, 4, 3, 3))
    assert dict(placement.tensors) == {"x": "x", "a": "a", "b": "a", "c": "a", "y": "y"}
    assert placement.factors == {"b": pytest.approx(1 / 3), "c": pytest.approx(1 / 6)}
    assert {"scaled", "halved"} <= placement.integer


def test_a_sum_with_a_scalar_runs_on_integers_and_one_with_a_vector_does_not() -> None:
    for operand, reasons in (("two", {}), ("many", {"sum": "one operand is a constant"})):
        nodes = [conv("x", "a", "k0"), node("Add", ["a", operand], ["b"], name="sum"), conv("b", "y", "k1")]
        assert placed(nodes, (1, 4, 3, 3)).reasons == reasons


@pytest.mark.parametrize(
    ("op", "operands", "factor"),
    [
        ("Mul", ["x", "third"], 1 / 3),
        ("Mul", ["two", "x"], 2.0),
        ("Div", ["x", "two"], 0.5),
        ("Div", ["two", "x"], None),
        ("Mul", ["x", "minus"], None),
        ("Mul", ["x", "zero"], None),
        ("Div", ["x", "zero"], None),
        ("Mul", ["x", "many"], None),
        ("Mul", ["x", "x"], None),
        ("Add", ["x", "two"], None),
    ],
)
def test_the_factor_of_a_scalar(op: str, operands: list[str], factor: float | None) -> None:
    used = {name: VALUES[name] for name in operands if name in VALUES}
    graph = gs.import_onnx(build([node(op, operands, ["y"])], used, (1, 4, 3, 3)))
    assert scale_factor(graph.nodes[0]) == (None if factor is None else pytest.approx(factor))


@pytest.mark.parametrize("on_demand", [True, False])
def test_what_only_outputs_read_is_joined_in_float_on_every_target(on_demand: bool) -> None:
    nodes = [
        conv("x", "boxes", "k0"),
        conv("x", "scores", "k1"),
        node("Concat", ["boxes", "scores"], ["joined"], name="head", axis=1),
        node("Transpose", ["joined"], ["y"], name="last", perm=[0, 2, 3, 1]),
    ]
    used = {name: VALUES[name] for name in ("k0", "k1")}
    graph = gs.import_onnx(build(nodes, used, (1, 4, 3, 3)))
    rules = dataclasses.replace(RULES, on_demand=on_demand)
    placement = place(graph, rules, frozenset(linear_layers(graph)))
    assert dict(placement.tensors) == {"x": "x", "boxes": "boxes", "scores": "scores"}
    assert placement.reasons["head"] == "no layer reads its result on integers"
