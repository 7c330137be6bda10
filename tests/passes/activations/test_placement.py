"""Placement: which tensors are quantized, and which grid each uses."""

import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest

from passes.activations.placement import Placement, place
from tests.support.graphs import array, node
from tests.support.integer_rules import RULES
from tests.support.placed_graphs import INFINITY, POOL, conv, graph_of, own, placed


def test_a_convolution_reads_and_writes_integers() -> None:
    placement = placed([conv("x", "y", "c")])
    assert placement == Placement(own("x", "y"), {}, frozenset({"c"}), {})


def residual() -> list[onnx.NodeProto]:
    return [
        conv("x", "a", "c1"),
        node("Relu", ["a"], ["b"], name="relu1"),
        conv("b", "c", "c2"),
        node("Add", ["c", "x"], ["d"], name="add"),
        node("Relu", ["d"], ["e"], name="relu2"),
        conv("e", "y", "c3"),
    ]


def test_residual_block() -> None:
    placement = placed(residual())
    assert placement.tensors == own("x", "b", "c", "e", "y")  # not a and d: their clamps are absorbed
    assert list(placement.tensors) == ["x", "b", "c", "e", "y"]
    assert placement.bounds == {"b": (0.0, INFINITY), "e": (0.0, INFINITY)}
    assert placement.integer == {"c1", "relu1", "c2", "add", "relu2", "c3"}
    assert placement.reasons == {}


def test_a_downsampling_block_quantizes_both_branches() -> None:
    nodes = [conv("x", "a", "c1"), conv("x", "b", "c2"), node("Add", ["a", "b"], ["y"], name="add")]
    placement = placed([*nodes, node("Relu", ["y"], ["z"], name="relu")], outputs=("y", "z"))
    assert placement.tensors == own("x", "a", "b")
    assert placement.reasons == {"add": "it writes a graph output"}
    inner = placed([*nodes, node("Relu", ["y"], ["r"], name="relu"), conv("r", "z", "c3")], outputs=("z",))
    assert inner.tensors == own("x", "a", "b", "r", "z")


def test_an_add_quantizes_its_other_operand() -> None:
    nodes = [
        conv("x", "a", "c"),
        node("Tanh", ["x"], ["t"], name="tanh"),
        node("Add", ["a", "t"], ["b"], name="add"),
        conv("b", "y", "d"),
    ]
    placement = placed(nodes)
    assert placement.tensors == own("x", "a", "t", "b", "y")
    assert placement.reasons == {"tanh": "the target has no integer Tanh"}


def test_silu_is_quantized_after_the_sigmoid_and_after_the_product() -> None:
    nodes = [
        conv("x", "a", "c"),
        node("Sigmoid", ["a"], ["s"], name="sigmoid"),
        node("Mul", ["a", "s"], ["b"], name="mul"),
        conv("b", "y", "d"),
    ]
    placement = placed(nodes)
    assert placement.tensors == own("x", "a", "s", "b", "y")
    assert placement.integer == {"c", "sigmoid", "mul", "d"}
    assert placement.reasons == {}


def test_concat_gives_every_tensor_its_own_grid() -> None:
    nodes = [
        conv("x", "a", "c"),
        conv("x", "b", "d"),
        node("Concat", ["a", "b"], ["e"], name="concat", axis=1),
        node("Conv", ["e", "f.w"], ["y"], name="f"),
    ]
    placement = placed(nodes, {"f.w": array(2, 8, 1, 1)})
    assert placement.tensors == own("x", "a", "b", "e", "y")


def test_max_pool_shares_the_grid_of_what_it_reads() -> None:
    pool: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        conv("x", "a", "c"),
        node("Relu", ["a"], ["b"], name="relu"),
        node("MaxPool", ["b"], ["p"], name="pool", **pool),
        node("Transpose", ["p"], ["t"], name="transpose", perm=[0, 1, 3, 2]),
        conv("t", "y", "d"),
    ]
    placement = placed(nodes)
    assert placement.tensors == own("x", "b", "y") | {"p": "b", "t": "b"}
    assert placement.integer >= {"pool", "transpose"}


def test_split_shares_its_grid_with_every_part() -> None:
    nodes = [
        conv("x", "a", "c"),
        node("Split", ["a", "sizes"], ["p", "q"], name="split", axis=2),
        node("Add", ["p", "q"], ["s"], name="add"),
        conv("s", "y", "d"),
    ]
    placement = placed(nodes, {"sizes": np.array([4, 4], np.int64)})
    assert placement.tensors == own("x", "a", "s", "y") | {"p": "a", "q": "a"}


def test_before_the_first_layer_nothing_is_quantized() -> None:
    pool: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
    placement = placed([node("MaxPool", ["x"], ["p"], name="pool", **pool), conv("p", "y", "c")])
    assert placement == Placement(own("p", "y"), {}, frozenset({"c"}), {})


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_the_logits_stay_float(op: str) -> None:
    head = [node(op, ["f", "fc.w"], ["y"], name="fc")]
    start = [
        conv("x", "a", "c"),
        node("GlobalAveragePool", ["a"], ["g"], name="pool"),
        node("Flatten", ["g"], ["f"], name="flatten"),
    ]
    weights = {"fc.w": array(4, 3)}
    placement = placed([*start, *head], weights)
    assert placement.tensors == own("x", "a", "g") | {"f": "g"}
    assert placement.integer >= {"fc"}
    assert placement.reasons == {}
    inner = placed([*start, *head, node("Tanh", ["y"], ["z"], name="tanh")], weights, outputs=("z",))
    assert inner.tensors == own("x", "a", "g", "y") | {"f": "g"}  # y is no graph output here, so it is quantized
    rules = dataclasses.replace(RULES, float_outputs=frozenset())
    assert placed([*start, *head], weights, rules).tensors == own("x", "a", "g", "y") | {"f": "g"}


FUSED = dataclasses.replace(RULES, fused_adds=True)


def test_an_add_takes_the_convolution_unrounded() -> None:
    nodes = [
        conv("x", "a", "c1"),
        conv("a", "b", "c2"),
        node("Add", ["b", "a"], ["s"], name="add"),
        conv("s", "y", "c3"),
    ]
    assert placed(nodes).tensors == own("x", "a", "b", "s", "y")
    placement = placed(nodes, rules=FUSED)
    assert placement.tensors == own("x", "a", "s", "y")
    assert placement.integer == {"c1", "c2", "add", "c3"}


def test_of_two_convolutions_an_add_takes_the_last() -> None:
    nodes = [
        conv("x", "a", "c1"),
        conv("x", "b", "c2"),
        node("Add", ["b", "a"], ["s"], name="add"),
        conv("s", "y", "c3"),
    ]
    assert placed(nodes, rules=FUSED).tensors == own("x", "a", "s", "y")


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param([conv("b", "d", "c3"), node("Add", ["b", "a"], ["s"], name="add")], id="read_twice"),
        pytest.param([node("Relu", ["b"], ["d"], name="r"), node("Add", ["d", "a"], ["s"], name="add")], id="relu"),
    ],
)
def test_convolutions_that_are_rounded_before_an_add(nodes: list[onnx.NodeProto]) -> None:
    graph = [conv("x", "a", "c1"), conv("a", "b", "c2"), *nodes, conv("s", "y", "c4")]
    assert placed(graph, rules=FUSED).tensors == placed(graph).tensors


def test_a_reshape_to_a_computed_shape_moves() -> None:
    nodes = [
        conv("x", "a", "c"),
        node("Shape", ["x"], ["shape"], name="shape"),
        node("Reshape", ["a", "shape"], ["b"], name="reshape"),
        conv("b", "y", "d"),
    ]
    graph = graph_of(nodes)
    graph.tensors()["shape"].dtype = np.dtype(np.int64)  # the type from shape inference
    placement = place(graph, RULES, frozenset({"c", "d"}))
    assert placement.tensors == own("x", "a", "y") | {"b": "a"}
    assert placement.integer == {"c", "reshape", "d"}


def test_nearest_resize_moves() -> None:
    resize = node("Resize", ["a", "", "scales"], ["b"], name="resize", mode="nearest")
    nodes = [conv("x", "a", "c"), resize, conv("b", "y", "d")]
    placement = placed(nodes, {"scales": np.array([1, 1, 2, 2], np.float32)})
    assert placement.tensors == own("x", "a", "y") | {"b": "a"}
    assert placement.reasons == {}


def test_placement_does_not_depend_on_the_order_of_the_nodes() -> None:
    """Both orders are topological. x feeds a convolution directly, and another one through MaxPool."""
    pool = node("MaxPool", ["x"], ["p"], name="pool", **POOL)
    first, second = conv("x", "y", "c"), conv("p", "z", "d")
    orders = [[pool, second, first], [first, pool, second]]
    placements = [placed(order, outputs=("y", "z")) for order in orders]
    assert dict(placements[0].tensors) == dict(placements[1].tensors) == {"x": "x", "p": "x", "y": "y", "z": "z"}
    assert placements[0].integer == placements[1].integer == {"pool", first.name, second.name}


def test_a_tensor_that_a_later_add_quantizes_is_quantized_for_its_first_reader_too() -> None:
    """The Add quantizes x because c is quantized. So the pool reads integers, whatever its position."""
    pool = node("MaxPool", ["x"], ["p"], name="pool", **POOL)
    layer, add = conv("v", "c", "layer"), node("Add", ["x", "c"], ["s"], name="add")
    ends = [node("Tanh", ["s"], ["y"], name="tanh"), node("Tanh", ["p"], ["z"], name="tanh_too")]
    before = [node("Tanh", ["x"], ["v"], name="tanh_first")]
    orders = [[*before, pool, layer, add, *ends], [*before, layer, add, pool, *ends]]
    placements = [placed(order, outputs=("y", "z")) for order in orders]
    assert (
        dict(placements[0].tensors) == dict(placements[1].tensors) == {"v": "v", "c": "c", "x": "x", "p": "x", "s": "s"}
    )
    assert placements[0].integer == placements[1].integer == {"pool", "layer", "add"}
