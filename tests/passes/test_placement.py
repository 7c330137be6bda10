"""Which tensors are quantized, with whose grid, and why the others are not."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.linear import linear_layers
from passes.placement import Placement, Rules, clamp_bounds, place
from tests.passes.integer_rules import RULES
from tests.passes.small_models import array, build, node

Constants = dict[str, np.ndarray]
IMAGE = (1, 4, 8, 8)
INFINITY = float("inf")


def conv(source: str, result: str, name: str) -> onnx.NodeProto:
    """A 1x1 convolution of 4 to 4 channels; `weights` holds its weight."""
    return node("Conv", [source, f"{name}.w"], [result], name=name)


def gemm(source: str, result: str, name: str = "fc") -> onnx.NodeProto:
    return node("Gemm", [source, f"{name}.w"], [result], name=name)


def graph_of(nodes: Sequence[onnx.NodeProto], constants: Constants | None = None, **options: Any) -> gs.Graph:
    values = dict(constants or {})
    shape = options.pop("shape", IMAGE)
    for item in nodes:
        if item.op_type in {"Conv", "ConvTranspose"} and item.input[1] not in values:
            values[item.input[1]] = array(4, 4, 1, 1)
        if item.op_type == "Gemm" and item.input[1] not in values:
            values[item.input[1]] = array(4, 3)
    return gs.import_onnx(build(nodes, values, shape, **options))


def placed(
    nodes: Sequence[onnx.NodeProto],
    constants: Constants | None = None,
    rules: Rules = RULES,
    kept: Sequence[str] = (),
    **options: Any,
) -> Placement:
    graph = graph_of(nodes, constants, **options)
    return place(graph, rules, frozenset(linear_layers(graph)) - frozenset(kept))


def own(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def test_a_convolution_reads_and_writes_integers() -> None:
    found = placed([conv("x", "y", "c")])
    assert found == Placement(own("x", "y"), {}, frozenset({"c"}), {})


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
    found = placed(residual())
    assert found.tensors == own("x", "b", "c", "e", "y")  # neither a nor d: their clamps are absorbed
    assert list(found.tensors) == ["x", "b", "c", "e", "y"]
    assert found.bounds == {"b": (0.0, INFINITY), "e": (0.0, INFINITY)}
    assert found.integer == {"c1", "relu1", "c2", "add", "relu2", "c3"}
    assert found.reasons == {}


def test_a_downsampling_block_quantizes_both_branches() -> None:
    nodes = [conv("x", "a", "c1"), conv("x", "b", "c2"), node("Add", ["a", "b"], ["y"], name="add")]
    found = placed([*nodes, node("Relu", ["y"], ["z"], name="relu")], outputs=("y", "z"))
    assert found.tensors == own("x", "a", "b")
    assert found.reasons == {"add": "it writes a graph output"}
    inner = placed([*nodes, node("Relu", ["y"], ["r"], name="relu"), conv("r", "z", "c3")], outputs=("z",))
    assert inner.tensors == own("x", "a", "b", "r", "z")


def test_an_add_brings_its_other_operand_in() -> None:
    nodes = [
        conv("x", "a", "c"),
        node("Tanh", ["x"], ["t"], name="tanh"),
        node("Add", ["a", "t"], ["b"], name="add"),
        conv("b", "y", "d"),
    ]
    found = placed(nodes)
    assert found.tensors == own("x", "a", "t", "b", "y")
    assert found.reasons == {"tanh": "the target has no integer Tanh"}


def test_silu_is_quantized_after_the_sigmoid_and_after_the_product() -> None:
    nodes = [
        conv("x", "a", "c"),
        node("Sigmoid", ["a"], ["s"], name="sigmoid"),
        node("Mul", ["a", "s"], ["b"], name="mul"),
        conv("b", "y", "d"),
    ]
    found = placed(nodes)
    assert found.tensors == own("x", "a", "s", "b", "y")
    assert found.integer == {"c", "sigmoid", "mul", "d"}
    assert found.reasons == {}


def test_concat_gives_every_tensor_its_own_grid() -> None:
    nodes = [
        conv("x", "a", "c"),
        conv("x", "b", "d"),
        node("Concat", ["a", "b"], ["e"], name="concat", axis=1),
        node("Conv", ["e", "f.w"], ["y"], name="f"),
    ]
    found = placed(nodes, {"f.w": array(2, 8, 1, 1)})
    assert found.tensors == own("x", "a", "b", "e", "y")


def test_max_pool_shares_the_grid_of_what_it_reads() -> None:
    pool: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        conv("x", "a", "c"),
        node("Relu", ["a"], ["b"], name="relu"),
        node("MaxPool", ["b"], ["p"], name="pool", **pool),
        node("Transpose", ["p"], ["t"], name="transpose", perm=[0, 1, 3, 2]),
        conv("t", "y", "d"),
    ]
    found = placed(nodes)
    assert found.tensors == own("x", "b", "y") | {"p": "b", "t": "b"}
    assert found.integer >= {"pool", "transpose"}


def test_split_shares_its_grid_with_every_part() -> None:
    nodes = [
        conv("x", "a", "c"),
        node("Split", ["a", "sizes"], ["p", "q"], name="split", axis=2),
        node("Add", ["p", "q"], ["s"], name="add"),
        conv("s", "y", "d"),
    ]
    found = placed(nodes, {"sizes": np.array([4, 4], np.int64)})
    assert found.tensors == own("x", "a", "s", "y") | {"p": "a", "q": "a"}


def test_before_the_first_layer_nothing_is_quantized() -> None:
    pool: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
    found = placed([node("MaxPool", ["x"], ["p"], name="pool", **pool), conv("p", "y", "c")])
    assert found == Placement(own("p", "y"), {}, frozenset({"c"}), {})


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_the_logits_stay_float(op: str) -> None:
    head = [node(op, ["f", "fc.w"], ["y"], name="fc")]
    start = [
        conv("x", "a", "c"),
        node("GlobalAveragePool", ["a"], ["g"], name="pool"),
        node("Flatten", ["g"], ["f"], name="flatten"),
    ]
    weights = {"fc.w": array(4, 3)}
    found = placed([*start, *head], weights)
    assert found.tensors == own("x", "a", "g") | {"f": "g"}
    assert found.integer >= {"fc"}
    assert found.reasons == {}
    inner = placed([*start, *head, node("Tanh", ["y"], ["z"], name="tanh")], weights, outputs=("z",))
    assert inner.tensors == own("x", "a", "g", "y") | {"f": "g"}  # read again: quantized
    rules = dataclasses.replace(RULES, float_outputs=frozenset())
    assert placed([*start, *head], weights, rules).tensors == own("x", "a", "g", "y") | {"f": "g"}


def test_a_relu_on_the_logits_is_absorbed_as_anywhere() -> None:
    nodes = [gemm("x", "a"), node("Relu", ["a"], ["y"], name="relu")]
    found = placed(nodes, shape=(2, 4))
    assert found.tensors == own("x", "y")
    assert found.bounds == {"y": (0.0, INFINITY)}


def test_layers_left_in_float() -> None:
    nodes = [conv("x", "a", "c1"), conv("a", "b", "c2"), conv("b", "y", "c3")]
    found = placed(nodes, kept=["c2"])
    assert found.tensors == own("x", "a", "b", "y")
    assert found.integer == {"c1", "c3"}
    assert found.reasons == {"c2": "left in float by the recipe"}
    assert placed(nodes, kept=["c1", "c2", "c3"]).tensors == {}
    assert placed(nodes, kept=["c1", "c2"]).tensors == own("b", "y")


def test_a_layer_without_an_integer_kernel() -> None:
    nodes = [conv("x", "a", "c"), node("ConvTranspose", ["a", "up.w"], ["y"], name="up")]
    found = placed(nodes)
    assert found.tensors == own("x", "a")
    assert found.reasons == {"up": "the target has no integer ConvTranspose"}
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
    found = placed([conv("x", "y", "c")], flat, rules, shape=["n", 4, 8])
    assert found.reasons == {"c": "the target has no integer Conv of 1 dimension"}


FUSED = dataclasses.replace(RULES, fused_adds=True)


def test_an_add_takes_the_convolution_unrounded() -> None:
    nodes = [
        conv("x", "a", "c1"),
        conv("a", "b", "c2"),
        node("Add", ["b", "a"], ["s"], name="add"),
        conv("s", "y", "c3"),
    ]
    assert placed(nodes).tensors == own("x", "a", "b", "s", "y")
    found = placed(nodes, rules=FUSED)
    assert found.tensors == own("x", "a", "s", "y")
    assert found.integer == {"c1", "c2", "add", "c3"}


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


def test_a_layer_that_is_no_linear_layer() -> None:
    nodes = [conv("x", "a", "c"), node("MatMul", ["a", "a"], ["y"], name="attention")]
    assert placed(nodes).reasons == {"attention": "both operands are activations"}


POOL: dict[str, Any] = {"kernel_shape": [2, 2]}
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
def test_what_stays_float_says_why(item: onnx.NodeProto, reason: str) -> None:
    constants = {"slope": array(4, 1, 1), "scales": np.array([1, 1, 2, 2], np.float32)}
    used = {name: values for name, values in constants.items() if name in item.input}
    found = placed([conv("x", "a", "c"), item, conv("b", "y", "d")], used)
    assert found.reasons == {"op": reason}
    assert found.tensors == own("x", "a", "b", "y")  # and the next layer starts anew
    assert found.integer == {"c", "d"}


def test_a_reshape_to_a_computed_shape_moves() -> None:
    nodes = [
        conv("x", "a", "c"),
        node("Shape", ["x"], ["shape"], name="shape"),
        node("Reshape", ["a", "shape"], ["b"], name="reshape"),
        conv("b", "y", "d"),
    ]
    graph = graph_of(nodes)
    graph.tensors()["shape"].dtype = np.dtype(np.int64)  # as shape inference says
    found = place(graph, RULES, frozenset({"c", "d"}))
    assert found.tensors == own("x", "a", "y") | {"b": "a"}
    assert found.integer == {"c", "reshape", "d"}


def test_nearest_resize_moves() -> None:
    resize = node("Resize", ["a", "", "scales"], ["b"], name="resize", mode="nearest")
    nodes = [conv("x", "a", "c"), resize, conv("b", "y", "d")]
    found = placed(nodes, {"scales": np.array([1, 1, 2, 2], np.float32)})
    assert found.tensors == own("x", "a", "y") | {"b": "a"}
    assert found.reasons == {}


@pytest.mark.parametrize(
    "item",
    [
        node("Sigmoid", ["a"], ["y"], name="op"),
        node("Transpose", ["a"], ["y"], name="op"),
        node("Add", ["a", "x"], ["y"], name="op"),
    ],
    ids=lambda item: item.op_type,
)
def test_what_writes_a_graph_output_stays_float(item: onnx.NodeProto) -> None:
    found = placed([conv("x", "a", "c"), item])
    assert found.reasons == {"op": "it writes a graph output"}
    assert found.tensors == own("x", "a")


def test_what_works_on_integers_already_is_not_a_candidate() -> None:
    nodes = [
        conv("x", "a", "c"),
        node("ArgMax", ["a"], ["i"], name="argmax", axis=1),
        node("Transpose", ["i"], ["y"], name="transpose"),
    ]
    found = placed(nodes)
    assert found.tensors == own("x", "a")
    assert found.reasons == {"argmax": "the target has no integer ArgMax"}


def test_a_constant_that_is_moved_as_an_activation_says() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["scales"], name="fc"),
        node("Resize", ["image", "", "scales"], ["r"], name="resize"),
        node("Tanh", ["r"], ["y"], name="tanh"),
    ]
    constants = {"w": array(4, 4), "image": array(1, 1, 2, 2)}
    found = placed(nodes, constants, shape=(4,), output_shape=("a", "b", "c", "d"))
    assert found.reasons == {"resize": "its first input is a constant"}


@pytest.mark.parametrize("op", ["Tanh", "Conv"])
def test_clamp_bounds_of_what_does_not_clamp(op: str) -> None:
    assert clamp_bounds(gs.Node(op, inputs=[gs.Variable("x")])) is None


def test_placement_does_not_depend_on_which_order_the_nodes_came_in() -> None:
    """Both are topological orders of one graph: x feeds a convolution and, through MaxPool, another."""
    pool = node("MaxPool", ["x"], ["p"], name="pool", **POOL)
    first, second = conv("x", "y", "c"), conv("p", "z", "d")
    orders = [[pool, second, first], [first, pool, second]]
    found = [placed(order, outputs=("y", "z")) for order in orders]
    assert dict(found[0].tensors) == dict(found[1].tensors) == {"x": "x", "p": "x", "y": "y", "z": "z"}
    assert found[0].integer == found[1].integer == {"pool", first.name, second.name}


def test_a_tensor_that_a_later_add_quantizes_is_quantized_for_its_first_reader_too() -> None:
    """The Add quantizes x because c is quantized, so the pool reads integers wherever it stands."""
    pool = node("MaxPool", ["x"], ["p"], name="pool", **POOL)
    layer, add = conv("v", "c", "layer"), node("Add", ["x", "c"], ["s"], name="add")
    ends = [node("Tanh", ["s"], ["y"], name="tanh"), node("Tanh", ["p"], ["z"], name="tanh_too")]
    before = [node("Tanh", ["x"], ["v"], name="tanh_first")]
    orders = [[*before, pool, layer, add, *ends], [*before, layer, add, pool, *ends]]
    found = [placed(order, outputs=("y", "z")) for order in orders]
    assert dict(found[0].tensors) == dict(found[1].tensors) == {"v": "v", "c": "c", "x": "x", "p": "x", "s": "s"}
    assert found[0].integer == found[1].integer == {"pool", "layer", "add"}
