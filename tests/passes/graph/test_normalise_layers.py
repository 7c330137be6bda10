"""Normal forms of padding, pools, reshapes and fully connected layers. test_normalise has the rest."""

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.graph.normalise.normalise import normalise
from tests.support.graphs import array, assert_same_outputs, build, node, ops

IMAGE = (2, 3, 8, 8)
OPSETS = pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])


def normalised(model: onnx.ModelProto, x: np.ndarray | None = None) -> gs.Graph:
    """Return the normalised graph, and check that it computes the same as the model."""
    graph = gs.import_onnx(model)
    normalise(graph)
    assert_same_outputs(model, graph, array(*IMAGE, seed=9) if x is None else x)
    return graph


def axes_op(
    op: str, opset: int, since: int, axes: list[int], **attributes: Any
) -> tuple[onnx.NodeProto, dict[str, Any]]:
    """Make `op` on x, with its axes as an input (from opset `since` on) or as an attribute."""
    if opset >= since:
        return node(op, ["x", "axes"], ["y"], name="op", **attributes), {"axes": np.array(axes, np.int64)}
    return node(op, ["x"], ["y"], name="op", axes=axes, **attributes), {}


# --- padding ---------------------------------------------------------------------------------------------------------


def padded_conv(**attributes: Any) -> list[onnx.NodeProto]:
    return [
        node("Pad", ["x", "pads"], ["p"], name="pad"),
        node("Conv", ["p", "conv.weight"], ["y"], name="conv", **attributes),
    ]


@OPSETS
@pytest.mark.parametrize("own", [None, [0, 1, 2, 0]])
@pytest.mark.parametrize("zero", [False, True])
def test_zeros_around_the_image_become_the_convolutions_padding(opset: int, own: list[int] | None, zero: bool) -> None:
    pads = np.array([0, 0, 1, 0, 0, 0, 2, 3])
    nodes = padded_conv(**({"pads": own} if own else {}), strides=[2, 2])
    constants = {"pads": pads, "conv.weight": array(4, 3, 3, 3)}
    if zero:
        nodes[0].input.append("zero")
        constants["zero"] = np.array(0, np.float32)
    graph = normalised(build(nodes, constants, ("N", 3, 8, 8), opset=opset))
    assert ops(graph) == ["Conv"]
    assert graph.nodes[0].attrs["pads"] == ([1, 1, 4, 3] if own else [1, 0, 2, 3])


@pytest.mark.parametrize(
    ("pads", "value", "attributes", "pad_attributes"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], 0.5, {}, {}),
        ([0, 0, 1, 1, 0, 0, 1, 1], None, {}, {"mode": "reflect"}),
        ([0, 0, -1, 1, 0, 0, 1, 1], None, {}, {}),
        ([0, 0, 1, 1, 0, 0, 1, 1], None, {"auto_pad": "SAME_UPPER"}, {}),
        ([1, 0, 0, 0, 0, 0, 0, 0], None, {}, {}),
    ],
    ids=["not_zero", "reflect", "crops", "auto_pad", "batch"],
)
def test_other_pads_stay(
    pads: list[int], value: float | None, attributes: dict[str, Any], pad_attributes: dict[str, Any]
) -> None:
    inputs = ["x", "pads"] + (["value"] if value is not None else [])
    nodes = [
        node("Pad", inputs, ["p"], name="pad", **pad_attributes),
        node("Conv", ["p", "conv.weight"], ["y"], name="conv", **attributes),
    ]
    constants = {"pads": np.array(pads), "conv.weight": array(4, 3, 3, 3)}
    if value is not None:
        constants["value"] = np.array(value, np.float32)
    assert ops(normalised(build(nodes, constants, IMAGE))) == ["Pad", "Conv"]


def test_a_pad_that_two_nodes_read_stays() -> None:
    nodes = [*padded_conv(), node("Relu", ["p"], ["z"], name="relu")]
    constants = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "conv.weight": array(4, 3, 3, 3)}
    assert "Pad" in ops(normalised(build(nodes, constants, IMAGE, outputs=["y", "z"])))


# --- pooling and flatten ---------------------------------------------------------------------------------------------


@OPSETS
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(
    ("shape", "axes"), [(IMAGE, [2, 3]), (IMAGE, [-1, -2]), ((2, 3, 8), [2]), ((1, 2, 4, 4, 4), [2, 3, 4])]
)
def test_a_mean_over_the_spatial_axes_becomes_a_pool(
    opset: int, keepdims: int, shape: tuple[int, ...], axes: list[int]
) -> None:
    mean, constants = axes_op("ReduceMean", opset, 18, axes, keepdims=keepdims)
    model = build([mean], constants, ("N", *shape[1:]), opset=opset)
    graph = normalised(model, array(*shape))
    assert ops(graph) == (["GlobalAveragePool"] if keepdims else ["GlobalAveragePool", "Flatten"])
    assert graph.nodes[0].name == "op"


@pytest.mark.parametrize(
    ("shape", "axes"),
    [(IMAGE, [1]), (IMAGE, [2]), (IMAGE, [1, 2, 3]), (IMAGE, [0, 2, 3]), ((2, 3), [1]), (IMAGE, [])],
    ids=["channels", "rows", "all_but_batch", "with_batch", "matrix", "none_given"],
)
def test_other_means_stay(shape: tuple[int, ...], axes: list[int]) -> None:
    mean = node("ReduceMean", ["x"], ["y"], keepdims=1, axes=axes or None)
    assert ops(normalised(build([mean], {}, shape), array(*shape))) == ["ReduceMean"]


def test_a_mean_of_a_tensor_of_unknown_rank_stays() -> None:
    model = build([node("ReduceMean", ["x"], ["y"], axes=[2, 3])], {}, IMAGE)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    graph = gs.import_onnx(model)
    normalise(graph)
    assert ops(graph) == ["ReduceMean"]


RESHAPES: dict[str, tuple[tuple[Any, ...], list[int]]] = {
    "zero_rest": (("N", 3, 8, 8), [0, -1]),
    "zero_features": (("N", 3, 8, 8), [0, 192]),
    "rest_features": (("N", 3, 8, 8), [-1, 192]),
    "zero_zero_of_a_pool": (("N", 3, 1, 1), [0, 0]),
    "pool": (("N", 3, 1, 1), [-1, 3]),
    "static_batch": ((2, 3, 8, 8), [2, -1]),
    "one_axis": (("N", 3, 8), [0, -1]),
}


@OPSETS
@pytest.mark.parametrize(("shape", "target"), RESHAPES.values(), ids=RESHAPES.keys())
def test_reshape_to_batch_and_rest_becomes_flatten(opset: int, shape: tuple[Any, ...], target: list[int]) -> None:
    model = build([node("Reshape", ["x", "t"], ["y"], name="view")], {"t": np.array(target)}, shape, opset=opset)
    graph = normalised(model, array(2, *shape[1:]))
    assert ops(graph) == ["Flatten"]
    assert graph.nodes[0].name == "view"


OTHER_RESHAPES: dict[str, tuple[tuple[Any, ...], list[int]]] = {
    "everything_in_one_row": (("N", 3, 8, 8), [1, -1]),
    "batch_merged": (("N", 3, 8, 8), [-1, 64]),
    "three_axes": (("N", 3, 8, 8), [0, 3, -1]),
    "one_axis": (("N", 3, 8, 8), [-1]),
    "matrix": (("N", 12), [0, -1]),
    "other_batch": ((2, 3, 8, 8), [4, -1]),
}


@pytest.mark.parametrize(("shape", "target"), OTHER_RESHAPES.values(), ids=OTHER_RESHAPES.keys())
def test_other_reshapes_stay(shape: tuple[Any, ...], target: list[int]) -> None:
    reshape = node("Reshape", ["x", "t"], ["y"])
    assert ops(normalised(build([reshape], {"t": np.array(target)}, shape), array(2, *shape[1:]))) == ["Reshape"]


def test_a_reshape_with_allowzero_stays() -> None:
    reshape = node("Reshape", ["x", "t"], ["y"], allowzero=1)
    graph = gs.import_onnx(build([reshape], {"t": np.array([0, 192])}, ("N", 3, 8, 8)))
    normalise(graph)
    assert ops(graph) == ["Reshape"]


def size_chain(opset: int, source: str = "x", axis: int = 0) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Return nodes that compute [source.shape[axis], -1], as PyTorch exports x.view(x.size(0), -1)."""
    unsqueeze = node("Unsqueeze", ["n"], ["n1"], axes=[0])
    if opset >= 13:
        unsqueeze = node("Unsqueeze", ["n", "zero1"], ["n1"])
    nodes = [
        node("Shape", [source], ["s"]),
        node("Gather", ["s", "axis"], ["n"], axis=0),
        unsqueeze,
        node("Concat", ["n1", "rest"], ["t"], axis=0),
    ]
    return nodes, {"axis": np.array(axis), "zero1": np.array([0]), "rest": np.array([-1])}


@OPSETS
@pytest.mark.parametrize("batch", ["N", 2])
def test_reshape_by_the_batch_size_becomes_flatten(opset: int, batch: str | int) -> None:
    nodes, constants = size_chain(opset)
    nodes = [*nodes, node("Relu", ["x"], ["r"]), node("Reshape", ["r", "t"], ["y"], name="view")]
    graph = normalised(build(nodes, constants, (batch, 3, 8, 8), opset=opset, output_shape=(batch, 192)))
    assert ops(graph) == ["Relu", "Flatten"]  # the batch dimension has the same name after the Relu


def test_reshape_by_a_slice_of_the_shape_becomes_flatten() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Slice", ["s", "zero1", "one1"], ["n1"]),
        node("Concat", ["n1", "rest"], ["t"], axis=0),
        node("Reshape", ["x", "t"], ["y"]),
    ]
    constants = {"zero1": np.array([0]), "one1": np.array([1]), "rest": np.array([-1])}
    assert ops(normalised(build(nodes, constants, ("N", 3, 8, 8)))) == ["Flatten"]


def test_reshape_by_shape_start_end_becomes_flatten() -> None:
    nodes = [
        node("Shape", ["x"], ["n1"], start=0, end=1),
        node("Concat", ["n1", "rest"], ["t"], axis=0),
        node("Reshape", ["x", "t"], ["y"]),
    ]
    assert ops(normalised(build(nodes, {"rest": np.array([-1])}, ("N", 3, 8, 8), opset=17))) == ["Flatten"]


def test_reshape_by_sizes_as_the_dynamo_exporter_writes_them() -> None:
    nodes = [
        node("Shape", ["x"], ["s"], start=0, end=1),
        node("Squeeze", ["s"], ["n"]),
        node("Reshape", ["n", "rest"], ["n1"]),
        node("Concat", ["n1", "features"], ["t"], axis=0),
        node("Reshape", ["x", "t"], ["y"]),
    ]
    constants = {"rest": np.array([-1]), "features": np.array([192])}
    model = build(nodes, constants, ("N", 3, 8, 8), opset=18, output_shape=("N", 192))
    assert ops(normalised(model)) == ["Flatten"]


def test_reshape_by_another_size_stays() -> None:
    nodes, constants = size_chain(17, axis=2)
    nodes = [*nodes, node("Reshape", ["x", "t"], ["y"])]
    graph = normalised(build(nodes, constants, ("N", 3, "H", "W")))
    assert ops(graph)[-1] == "Reshape"


# --- Gemm ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [(5,), (1, 5), (1,), (), None], ids=str)
def test_alpha_and_beta_are_absorbed(trans_b: int, bias: tuple[int, ...] | None) -> None:
    inputs, constants = ["x", "fc.weight"], {"fc.weight": array(*((5, 7) if trans_b else (7, 5)))}
    if bias is not None:
        inputs, constants["fc.bias"] = [*inputs, "fc.bias"], array(*bias, seed=3)
    gemm = node("Gemm", inputs, ["y"], name="fc", alpha=0.5, beta=-3.0, transB=trans_b)
    graph = normalised(build([gemm], constants, ("N", 7)), array(3, 7))
    (actual,) = graph.nodes
    assert actual.attrs.get("alpha", 1.0) == actual.attrs.get("beta", 1.0) == 1.0
    assert bias is None or actual.inputs[2].values.shape == (5,)


def test_a_bias_per_row_keeps_its_shape() -> None:
    gemm = node("Gemm", ["x", "w", "b"], ["y"], beta=2.0)
    graph = normalised(build([gemm], {"w": array(7, 5), "b": array(3, 5)}, (3, 7)), array(3, 7))
    assert graph.nodes[0].inputs[2].values.shape == (3, 5)


def test_a_computed_weight_keeps_alpha() -> None:
    gemm = node("Gemm", ["w", "x"], ["y"], alpha=0.5)
    graph = normalised(build([gemm], {"w": array(5, 3)}, (3, 7)), array(3, 7))
    assert graph.nodes[0].attrs["alpha"] == 0.5


def test_beta_of_a_gemm_with_a_computed_weight_is_absorbed() -> None:
    """Nothing says the weight's shape. The old light models of onnx generate their weights with ConstantOfShape."""
    nodes = [
        node("Flatten", ["x"], ["flat"], name="flat"),
        node("Cast", ["flat"], ["size"], name="size", to=7),
        node("ReduceMax", ["size"], ["most"], name="most", keepdims=0),
        node("Mul", ["most", "none"], ["zero"], name="zero"),
        node("Add", ["zero", "shape"], ["sizes"], name="sizes"),
        node("ConstantOfShape", ["sizes"], ["w"], name="ones"),
        node("Gemm", ["flat", "w", "bias"], ["y"], name="fc", beta=2.0),
    ]
    constants = {"none": np.array([0]), "shape": np.array([192, 5]), "bias": array(5)}
    graph = normalised(build(nodes, constants, IMAGE, opset=13, output_shape=[2, 5]))
    assert "beta" not in next(each for each in graph.nodes if each.op == "Gemm").attrs


@OPSETS
@pytest.mark.parametrize("bias", [(5,), (1,), ()], ids=str)
@pytest.mark.parametrize("swap", [False, True])
def test_matmul_and_add_become_gemm(opset: int, bias: tuple[int, ...], swap: bool) -> None:
    add = ["b", "h"] if swap else ["h", "b"]
    nodes = [node("MatMul", ["x", "fc.weight"], ["h"]), node("Add", add, ["y"])]
    model = build(nodes, {"fc.weight": array(7, 5), "b": array(*bias, seed=2)}, ("N", 7), opset=opset)
    graph = normalised(model, array(3, 7))
    assert ops(graph) == ["Gemm"]
    assert graph.nodes[0].name == "fc"
    assert graph.nodes[0].inputs[2].values.shape == (5,)


def test_a_shared_added_bias_is_copied() -> None:
    nodes = [
        node("MatMul", ["x", "a.weight"], ["h"]),
        node("Add", ["h", "b"], ["i"]),
        node("MatMul", ["i", "c.weight"], ["j"]),
        node("Add", ["j", "b"], ["y"]),
    ]
    model = build(nodes, {"a.weight": array(7, 5), "c.weight": array(5, 5), "b": array(5)}, ("N", 7))
    graph = normalised(model, array(3, 7))
    assert ops(graph) == ["Gemm", "Gemm"]
    assert graph.nodes[0].inputs[2].name != graph.nodes[1].inputs[2].name


def test_matmul_without_add_becomes_gemm() -> None:
    assert ops(normalised(build([node("MatMul", ["x", "w"], ["y"])], {"w": array(7, 5)}, ("N", 7)), array(3, 7))) == [
        "Gemm"
    ]


MATMULS: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], tuple[Any, ...], list[str], list[str]]] = {
    "rank_3": ([node("MatMul", ["x", "w"], ["y"])], {"w": array(7, 5)}, ("N", 4, 7), ["y"], ["MatMul"]),
    "constant_left": ([node("MatMul", ["w", "x"], ["y"])], {"w": array(5, 2)}, (2, 7), ["y"], ["MatMul"]),
    "vector": ([node("MatMul", ["x", "w"], ["y"])], {"w": array(7)}, ("N", 7), ["y"], ["MatMul"]),
    "add_widens": (
        [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["y"])],
        {"w": array(7, 5), "b": array(4, 1, 5)},
        ("N", 7),
        ["y"],
        ["Gemm", "Add"],
    ),
    "product_is_an_output": (
        [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["y"])],
        {"w": array(7, 5), "b": array(5)},
        ("N", 7),
        ["y", "h"],
        ["Gemm", "Add"],
    ),
    "add_of_two_products": (
        [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "h"], ["y"])],
        {"w": array(7, 5)},
        ("N", 7),
        ["y"],
        ["Gemm", "Add"],
    ),
}


@pytest.mark.parametrize(("nodes", "constants", "shape", "outputs", "expected"), MATMULS.values(), ids=MATMULS.keys())
def test_other_products_stay(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    shape: tuple[Any, ...],
    outputs: list[str],
    expected: list[str],
) -> None:
    assert ops(normalised(build(nodes, constants, shape, outputs=outputs), array(2, *shape[1:]))) == expected
