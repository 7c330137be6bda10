"""Constants fold, except those that are larger than what generates them."""

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper

from passes.graph.normalise.normalise import normalise
from tests.support.graphs import array, build, node, ops
from tests.support.normalised_graphs import IMAGE, constant, conv, normalised

OPSETS = pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])


@OPSETS
def test_constant_nodes_become_initializers(opset: int) -> None:
    nodes = [
        constant("conv.weight", array(4, 3, 3, 3)),
        conv("x", "h"),
        constant("c", array(1)),
        node("Add", ["h", "c"], ["y"]),
    ]
    graph = normalised(build(nodes, {}, IMAGE, opset=opset))
    assert ops(graph) == ["Conv", "Add"]
    assert graph.nodes[0].inputs[1].name == "conv.weight"


@pytest.mark.parametrize("value", [{"value_float": 2.5}, {"value_floats": [1.0, 2.0, 3.0, 4, 5, 6, 7, 8]}])
def test_constant_nodes_with_plain_attributes(value: dict[str, Any]) -> None:
    nodes = [helper.make_node("Constant", [], ["c"], **value), node("Mul", ["x", "c"], ["y"])]
    graph = normalised(build(nodes, {}, IMAGE))
    assert ops(graph) == ["Mul"]
    assert graph.nodes[0].inputs[1].dtype == np.float32


def test_a_weight_that_is_only_moved_keeps_its_name() -> None:
    nodes = [
        node("Identity", ["fc.weight"], ["/Identity_output_0"]),
        node("Transpose", ["/Identity_output_0"], ["/Transpose_output_0"], perm=[1, 0]),
        node("Flatten", ["x"], ["f"]),
        node("MatMul", ["f", "/Transpose_output_0"], ["y"]),
    ]
    graph = normalised(build(nodes, {"fc.weight": array(5, 192)}, IMAGE))
    assert ops(graph) == ["Flatten", "Gemm"]
    assert graph.nodes[1].name == "fc"
    assert graph.nodes[1].inputs[1].name == "fc.weight"
    assert graph.nodes[1].inputs[1].values.shape == (192, 5)


@OPSETS
def test_computed_weights_fold_and_stay_float32(opset: int) -> None:
    """The weight is normalised, g v / |v|, as PyTorch exports it."""
    squares = node("ReduceL2", ["v"], ["norm"], axes=[1, 2, 3], keepdims=1)
    extra = {}
    if opset >= 18:
        squares, extra = node("ReduceL2", ["v", "axes"], ["norm"], keepdims=1), {"axes": np.array([1, 2, 3])}
    nodes = [squares, node("Div", ["v", "norm"], ["u"]), node("Mul", ["g", "u"], ["w"]), conv("x", "y", weight="w")]
    model = build(nodes, {"v": array(4, 3, 3, 3), "g": array(4, 1, 1, 1), **extra}, IMAGE, opset=opset)
    graph = normalised(model)
    assert ops(graph) == ["Conv"]
    assert graph.nodes[0].inputs[1].dtype == np.float32


def test_the_shape_of_a_static_tensor_folds() -> None:
    nodes = [
        node("Shape", ["x"], ["s"], start=2),
        node("ConstantOfShape", ["s"], ["ones"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [3.0])),
        node("Add", ["x", "ones"], ["y"]),
    ]
    graph = normalised(build(nodes, {}, IMAGE))
    assert ops(graph) == ["Add"]


def test_a_cast_to_the_type_of_the_input_folds() -> None:
    """The dynamo exporter writes such a bias for a convolution without one."""
    nodes = [
        node("CastLike", ["zero", "x"], ["z"]),
        node("Expand", ["z", "shape"], ["b"]),
        node("Conv", ["x", "conv.weight", "b"], ["y"]),
    ]
    constants = {"zero": np.array(0, np.int64), "shape": np.array([4]), "conv.weight": array(4, 3, 3, 3)}
    graph = normalised(build(nodes, constants, ("N", 3, 8, 8), opset=18))
    assert ops(graph) == ["Conv"]
    assert graph.nodes[0].inputs[2].dtype == np.float32


def test_nodes_with_huge_results_do_not_fold() -> None:
    nodes = [node("Expand", ["c", "shape"], ["big"]), node("ReduceMax", ["big"], ["m"]), node("Add", ["x", "m"], ["y"])]
    graph = normalised(build(nodes, {"c": array(1), "shape": np.array([1000, 1000])}, IMAGE))
    assert "Expand" in ops(graph)
    assert all(np.prod(t.shape) < 1000 for t in graph.tensors().values() if isinstance(t, gs.Constant))


LARGE = {"start": np.array(0.0, np.float32), "end": np.array(4000.0, np.float32), "step": np.array(1.0, np.float32)}


@pytest.mark.parametrize(
    "nodes",
    [
        [node("ConstantOfShape", ["shape"], ["big"])],
        [node("Expand", ["c", "shape"], ["big"])],
        [node("Tile", ["square", "times"], ["big"])],
        [node("Range", ["start", "end", "step"], ["r"]), node("Reshape", ["r", "shape"], ["big"])],
        [node("Mul", ["column", "row"], ["big"])],
        [node("Expand", ["c", "shape"], ["e"]), node("Exp", ["e"], ["big"])],
    ],
    ids=["zeros", "expand", "tile", "range", "outer product", "behind"],
)
def test_what_generates_a_large_constant_stays_a_node(nodes: list[onnx.NodeProto]) -> None:
    end = [node("ReduceMax", ["big"], ["m"]), node("Add", ["x", "m"], ["y"])]
    values = {"c": array(1), "shape": np.array([80, 50]), "times": np.array([8, 5]), "square": array(10, 10)} | LARGE
    values |= {"column": array(80, 1), "row": array(1, 50)}
    read = {name for each in nodes for name in each.input}
    graph = normalised(build([*nodes, *end], {k: v for k, v in values.items() if k in read}, IMAGE))
    constants = {t.name: t for t in graph.tensors().values() if isinstance(t, gs.Constant)}
    assert sum(t.values.nbytes for t in constants.values()) <= 1024


@pytest.mark.parametrize("layer", ["Conv", "MatMul", "BatchNormalization"])
def test_what_a_layer_reads_folds_however_large(layer: str) -> None:
    """Weights that are generated become weights. Activations that are made of a large constant do not."""
    zeros = node("ConstantOfShape", ["large"], ["zeros"])
    joined = [zeros, node("Concat", ["x", "zeros"], ["h"], axis=2)]
    made = [node("Expand", ["w", "to"], ["weight"])]
    to: tuple[int, ...] = (3,)
    if layer == "Conv":
        to, last = (8, 3, 5, 5), node("Conv", ["h", "weight"], ["y"])
    elif layer == "MatMul":
        to, last = (8, 50), node("MatMul", ["h", "weight"], ["y"])
    else:
        last = node("BatchNormalization", ["h", "weight", "weight", "weight", "weight"], ["y"])
    constants = {"large": np.array([2, 3, 5000, 8]), "w": np.abs(array(1)), "to": np.array(to)}
    graph = normalised(build([*joined, *made, last], constants, IMAGE))
    assert ops(graph) == ["ConstantOfShape", "Concat", layer]
    assert graph.nodes[2].inputs[1].values.shape == to


def test_a_constant_that_replaces_another_of_its_size_folds() -> None:
    """A table of 4 kB that is scaled stays one table, but not if the original has other readers."""
    scaled = [node("Mul", ["table", "two"], ["t"]), node("ReduceMax", ["t"], ["m"]), node("Add", ["x", "m"], ["a"])]
    alone = build([*scaled, node("Relu", ["a"], ["y"])], {"table": array(32, 32), "two": array(1)}, IMAGE)
    assert "Mul" not in ops(normalised(alone))
    other = [node("ReduceMin", ["table"], ["n"]), node("Add", ["a", "n"], ["y"])]
    shared = build([*scaled, *other], {"table": array(32, 32), "two": array(1)}, IMAGE)
    assert "Mul" in ops(normalised(shared))


def test_a_constant_that_is_an_output_of_the_model_stays() -> None:
    nodes = [constant("c", array(2)), node("Relu", ["x"], ["y"])]
    graph = normalised(build(nodes, {}, IMAGE, outputs=["y", "c"]))
    assert sorted(ops(graph)) == ["Constant", "Relu"]


def test_random_constants_do_not_fold() -> None:
    nodes = [
        node("RandomNormal", [], ["r"], shape=[1], seed=1.0),
        node("Add", ["x", "r"], ["s"]),
        node("Shape", ["s"], ["y"]),
    ]
    graph = gs.import_onnx(build(nodes, {}, ("N", 3, 8, 8)))
    normalise(graph)
    assert "RandomNormal" in ops(graph)
