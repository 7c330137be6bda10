"""Nodes that compute the same become one, and nothing else does."""

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper

from passes.graph.normalise.normalise import normalise
from passes.ir.onnx_graph import import_graph
from tests.support.graphs import array, assert_same_outputs, build, node, ops

IMAGE = (1, 4, 6, 6)
SIZES = {"sizes": np.array([1, 3], np.int64), "again": np.array([1, 3], np.int64), "other": np.array([2, 2], np.int64)}
W = {"w": array(4, 4, 1, 1), "same": array(4, 4, 1, 1), "different": array(4, 4, 1, 1, seed=1)}


def merged(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str] = ("y",), rewrite: bool = True) -> gs.Graph:
    """Return the normalised graph, and check that it computes the same as the nodes."""
    read = {name for each in nodes for name in each.input}
    constants = {name: values for name, values in {**SIZES, **W}.items() if name in read}
    model = build(nodes, constants, IMAGE, outputs=outputs)
    graph = import_graph(model)
    normalise(graph, rewrite=rewrite)
    assert_same_outputs(model, graph, array(*IMAGE, seed=3))
    return graph


def split(sizes: str, *parts: str, axis: int = 1) -> onnx.NodeProto:
    return node("Split", ["x", sizes], parts, axis=axis)


def test_a_split_for_every_piece_becomes_one() -> None:
    nodes = [split("sizes", "a", "b"), split("again", "c", "d"), node("Mul", ["a", "d"], ["y"])]
    graph = merged(nodes)
    assert ops(graph) == ["Split", "Mul"]
    assert len(graph.nodes[0].outputs) == 2


def test_other_constants_attributes_or_inputs_are_not_equal() -> None:
    nodes = [
        node("Relu", ["x"], ["h"]),
        split("sizes", "a", "b"),
        split("other", "c", "d"),
        node("Split", ["h", "again"], ["e", "f"], axis=1),
        node("Concat", ["a", "b"], ["ab"], axis=1),
        node("Concat", ["c", "d"], ["cd"], axis=1),
        node("Concat", ["f", "e"], ["fe"], axis=1),
        node("Softmax", ["ab"], ["s"], axis=1),
        node("Softmax", ["ab"], ["t"], axis=2),
        node("Sum", ["ab", "cd", "fe", "s", "t"], ["y"]),
    ]
    assert sorted(ops(merged(nodes))) == sorted(each.op_type for each in nodes)


def test_a_chain_of_equal_nodes_becomes_one() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="first"),
        node("Conv", ["x", "same"], ["b"], name="second"),
        node("Relu", ["a"], ["ra"]),
        node("Relu", ["b"], ["rb"]),
        node("Add", ["ra", "rb"], ["y"]),
    ]
    graph = merged(nodes)
    assert ops(graph) == ["Conv", "Relu", "Add"]
    assert graph.nodes[0].name == "first"


def test_layers_of_other_weights_stay() -> None:
    nodes = [node("Conv", ["x", "w"], ["a"]), node("Conv", ["x", "different"], ["b"]), node("Add", ["a", "b"], ["y"])]
    assert ops(merged(nodes)) == ["Conv", "Conv", "Add"]


@pytest.mark.parametrize("outputs", [("y", "a"), ("y", "b"), ("y", "a", "b")])
def test_graph_outputs_keep_their_names(outputs: tuple[str, ...]) -> None:
    nodes = [node("Relu", ["x"], ["a"]), node("Relu", ["x"], ["b"]), node("Add", ["a", "b"], ["y"])]
    assert ops(merged(nodes, outputs)).count("Relu") == (2 if len(outputs) == 3 else 1)


def test_the_earlier_of_two_nodes_may_go() -> None:
    """Its readers come before the node that stays."""
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Sigmoid", ["a"], ["s"]),
        node("Relu", ["x"], ["b"]),
        node("Add", ["s", "a"], ["y"]),
    ]
    assert ops(merged(nodes, ("y", "b"))) == ["Relu", "Sigmoid", "Add"]


def test_random_numbers_are_not_equal() -> None:
    draws = [node("RandomNormalLike", ["x"], [name]) for name in ("a", "b")]
    graph = gs.import_onnx(build([*draws, node("Sub", ["a", "b"], ["y"])], {}, IMAGE))
    normalise(graph)
    assert ops(graph).count("RandomNormalLike") == 2


def test_what_is_inside_of_a_body_may_be_random() -> None:
    def branch(name: str) -> onnx.GraphProto:
        return helper.make_graph(
            [node("Neg", ["x"], [name])], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        )

    some = [node("ReduceMax", ["x"], ["most"], keepdims=0), node("Cast", ["most"], ["some"], to=TensorProto.BOOL)]
    choices = [
        node("If", ["some"], [result], then_branch=branch("t"), else_branch=branch("e")) for result in ("a", "b")
    ]
    assert ops(merged([*some, *choices, node("Add", ["a", "b"], ["y"])])).count("If") == 2


def test_operators_of_other_domains_may_not_be_functions_of_their_inputs() -> None:
    nodes = [helper.make_node("Thing", ["x"], [name], domain="some.where") for name in ("a", "b")]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, IMAGE)
    graph = helper.make_graph([*nodes, node("Sub", ["a", "b"], ["y"])], "g", [value], [onnx.ValueInfoProto(name="y")])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("some.where", 1)]
    surgeon = gs.import_onnx(helper.make_model(graph, opset_imports=opsets))
    normalise(surgeon)
    assert ops(surgeon).count("Thing") == 2


def test_a_file_that_is_kept_as_it_is_keeps_its_nodes() -> None:
    nodes = [split("sizes", "a", "b"), split("again", "c", "d"), node("Mul", ["a", "d"], ["y"])]
    assert ops(merged(nodes, rewrite=False)) == ["Split", "Split", "Mul"]
