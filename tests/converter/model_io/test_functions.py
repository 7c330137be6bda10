"""Models with functions of their own compute the same without them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from converter.model_io.load import load_proto
from tests.support.graphs import array, run

node = helper.make_node
X = array(2, 3, 8, 8, seed=1)
CONV = node("Conv", ["x", "w"], ["h"])


def function(name: str, *nodes: NodeProto, attributes: tuple[str, ...] = (), opset: int = 17) -> onnx.FunctionProto:
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["a"], ["b"], nodes, imports, attributes=list(attributes))


def built(nodes: list[NodeProto], *functions: onnx.FunctionProto, opset: int = 17) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 6, 6])],
        [numpy_helper.from_array(array(4, 3, 3, 3), "w")],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=functions)


def call(name: str, source: str, result: str, **attributes: Any) -> NodeProto:
    return node(name, [source], [result], domain="local", **attributes)


LOW = node("Constant", [], ["low"], value=numpy_helper.from_array(np.array(0.1, np.float32)))
CLIP = function("Act", LOW, node("Clip", ["a", "low", ""], ["b"]))


def used_twice() -> onnx.ModelProto:
    return built([CONV, call("Act", "h", "i"), call("Act", "i", "y")], CLIP)


def nested() -> onnx.ModelProto:
    outer = function("Outer", call("Act", "a", "t"), node("Add", ["t", "a"], ["b"]))
    return built([CONV, call("Outer", "h", "y")], CLIP, outer)


def with_attribute() -> onnx.ModelProto:
    slope = AttributeProto(name="alpha", ref_attr_name="slope", type=AttributeProto.FLOAT)
    leaky = node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.append(slope)
    return built([CONV, call("Leak", "h", "y", slope=0.3)], function("Leak", leaky, attributes=("slope",)))


def of_another_opset() -> onnx.ModelProto:
    return built([CONV, call("Act", "h", "y")], CLIP, opset=15)


def in_a_branch() -> onnx.ModelProto:
    branches = [
        helper.make_graph([call("Act", "h", name)], name, [], [helper.make_tensor_value_info(name, 1, None)])
        for name in ("then", "else")
    ]
    nodes = [
        CONV,
        node("ReduceMax", ["h"], ["top"], keepdims=0),
        node("Cast", ["top"], ["yes"], to=TensorProto.BOOL),
        node("If", ["yes"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    return built(nodes, CLIP)


@pytest.mark.parametrize("make", [used_twice, nested, with_attribute, of_another_opset, in_a_branch])
def test_functions_are_replaced_by_their_nodes(make: Callable[[], onnx.ModelProto]) -> None:
    model = make()
    loaded = load_proto(model)
    assert not loaded.functions
    np.testing.assert_allclose(run(loaded, X)[0], run(model, X)[0], rtol=1e-6, atol=1e-6)
