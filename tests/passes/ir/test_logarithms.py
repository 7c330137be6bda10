"""Which layers a logarithm needs in full precision."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.ir.logarithms import layers_before_logarithms
from tests.support.graphs import array, build, node


def found(*nodes: onnx.NodeProto) -> list[str]:
    constants = {"w": array(4, 4), "v": array(4, 4), "u": array(4, 4), "eps": np.array(1e-6, np.float32)}
    read = {name for each in nodes for name in each.input}
    graph = gs.import_onnx(build(list(nodes), {name: v for name, v in constants.items() if name in read}, (2, 4)))
    return layers_before_logarithms(graph, {"one", "two", "three"})


def test_a_chain_of_layers_up_to_the_logarithm() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["a"], "one"),
        node("MatMul", ["a", "v"], ["b"], "two"),
        node("Mul", ["b", "b"], ["c"], "square"),
        node("Add", ["c", "eps"], ["d"], "add"),
        node("Log", ["d"], ["e"], "log"),
        node("MatMul", ["e", "u"], ["y"], "three"),
    ]
    assert found(*nodes) == ["one", "two"]


@pytest.mark.parametrize("op", ["Relu", "Sigmoid", "Softmax", "Tanh", "Exp"])
def test_an_activation_function_ends_the_chain(op: str) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["a"], "one"),
        node(op, ["a"], ["b"], "bounded"),
        node("MatMul", ["b", "v"], ["c"], "two"),
        node("Abs", ["c"], ["d"], "abs"),
        node("Log", ["d"], ["y"], "log"),
    ]
    assert found(*nodes) == ["two"]


def test_a_softmax_before_the_logarithm_leaves_all_layers_alone() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["a"], "one"),
        node("Softmax", ["a"], ["b"], "softmax"),
        node("Log", ["b"], ["y"], "log"),
    ]
    assert found(*nodes) == []
