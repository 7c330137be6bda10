from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.graph.fold_batchnorm import fold_batchnorm
from passes.ir.surgery import tensor_names
from tests.support.graphs import array, assert_same_outputs, build, node, ops

Constants = dict[str, np.ndarray]


def norm(channels: int, name: str = "bn", *, shift: bool = True) -> Constants:
    """Make parameters far from the identity, so that a scale off by 1 % or a missing shift is visible."""
    rng = np.random.default_rng(channels)
    mean = rng.normal(0.0, 2.0, channels) if shift else np.zeros(channels)
    beta = rng.normal(0.0, 2.0, channels) if shift else np.zeros(channels)
    values = {
        "scale": rng.uniform(0.5, 2.0, channels) * rng.choice([-1, 1], channels),
        "bias": beta,
        "mean": mean,
        "var": rng.uniform(0.1, 4.0, channels),
    }
    return {f"{name}.{key}": value.astype(np.float32) for key, value in values.items()}


def norm_node(source: str, result: str, name: str = "bn", **attributes: Any) -> onnx.NodeProto:
    inputs = [source, f"{name}.scale", f"{name}.bias", f"{name}.mean", f"{name}.var"]
    return node("BatchNormalization", inputs, [result], name=name, **attributes)


LAYERS_BEFORE = {
    # op, weight shape, outputs, attributes, input shape
    "conv": ("Conv", (6, 3, 3, 3), 6, {"pads": [1, 1, 1, 1]}, (2, 3, 8, 8)),
    "conv_stride_dilation": ("Conv", (6, 3, 3, 3), 6, {"strides": [2, 1], "dilations": [1, 2]}, (2, 3, 9, 9)),
    "conv_group2": ("Conv", (6, 2, 3, 3), 6, {"group": 2}, (2, 4, 8, 8)),
    "conv_depthwise": ("Conv", (8, 1, 3, 3), 8, {"group": 8, "auto_pad": "SAME_UPPER"}, (2, 8, 7, 7)),
    "conv_1d": ("Conv", (5, 3, 4), 5, {"pads": [0, 2]}, (2, 3, 11)),
    "conv_3d": ("Conv", (4, 2, 2, 2, 2), 4, {}, (1, 2, 5, 5, 5)),
    "conv_transpose": ("ConvTranspose", (3, 5, 3, 3), 5, {"strides": [2, 2]}, (2, 3, 5, 5)),
    "conv_transpose_group3": ("ConvTranspose", (6, 4, 2, 2), 12, {"group": 3, "pads": [1, 1, 0, 0]}, (2, 6, 5, 5)),
    "conv_transpose_1d_group2": ("ConvTranspose", (4, 3, 3), 6, {"group": 2}, (2, 4, 7)),
    "gemm": ("Gemm", (7, 5), 5, {}, (3, 7)),
    "gemm_trans_b": ("Gemm", (5, 7), 5, {"transB": 1}, (3, 7)),
    "gemm_trans_a": ("Gemm", (7, 5), 5, {"transA": 1}, (7, 3)),
    "gemm_alpha_beta": ("Gemm", (7, 5), 5, {"alpha": 0.5, "beta": 3.0}, (3, 7)),
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("case", LAYERS_BEFORE.values(), ids=LAYERS_BEFORE.keys())
def test_folds_into_the_layer_before(case: tuple[Any, ...], opset: int, bias: bool) -> None:
    op, weight, channels, attributes, shape = case
    constants = {"fc.weight": array(*weight), **norm(channels)}
    inputs = ["x", "fc.weight"]
    if bias:
        constants["fc.bias"] = array(channels, seed=1)
        inputs.append("fc.bias")
    layer = node(op, inputs, ["h"], name="fc", **attributes)
    model = build([layer, norm_node("h", "y", epsilon=0.01)], constants, ("N", *shape[1:]), opset=opset)
    if attributes.get("transA"):
        model = build([layer, norm_node("h", "y", epsilon=0.01)], constants, shape, opset=opset)
    graph = gs.import_onnx(model)
    result = fold_batchnorm(graph)
    assert ops(graph) == [op]
    assert result.folded == {"fc": "bn folded"}
    assert result.kept == {}
    assert [tensor.name for tensor in graph.nodes[0].inputs] == ["x", "fc.weight", "fc.bias"]
    assert graph.nodes[0].name == "fc"
    assert graph.nodes[0].inputs[1].dtype == graph.nodes[0].inputs[2].dtype == np.float32
    assert_same_outputs(model, graph, array(*shape, seed=2))


LAYERS_BEHIND = {
    # op, weight shape, attributes, input shape, whether the shift must be zero
    "conv": ("Conv", (6, 3, 3, 3), {}, (2, 3, 8, 8), True),
    "conv_group2": ("Conv", (6, 2, 3, 3), {"group": 2, "strides": [2, 2]}, (2, 4, 8, 8), True),
    "conv_depthwise": ("Conv", (8, 1, 3, 3), {"group": 4, "auto_pad": "VALID"}, (2, 4, 7, 7), True),
    "conv_1d_zero_pads": ("Conv", (5, 3, 4), {"pads": [0, 0]}, (2, 3, 11), True),
    "conv_padded_no_shift": ("Conv", (6, 3, 3, 3), {"pads": [1, 1, 1, 1]}, (2, 3, 8, 8), False),
    "conv_same_no_shift": ("Conv", (6, 3, 3, 3), {"auto_pad": "SAME_UPPER"}, (2, 3, 8, 8), False),
    "conv_transpose_no_shift": ("ConvTranspose", (4, 3, 3, 3), {"group": 2, "strides": [2, 2]}, (2, 4, 5, 5), False),
    "gemm": ("Gemm", (7, 5), {}, (3, 7), True),
    "gemm_trans_b_alpha_beta": ("Gemm", (5, 7), {"transB": 1, "alpha": 0.5, "beta": 3.0}, (3, 7), True),
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("case", LAYERS_BEHIND.values(), ids=LAYERS_BEHIND.keys())
def test_folds_into_the_layer_behind_where_exact(case: tuple[Any, ...], bias: bool) -> None:
    op, weight, attributes, shape, shift = case
    channels = shape[1]
    outputs = weight[1] * attributes.get("group", 1) if op == "ConvTranspose" else weight[0]
    outputs = weight[1] if op == "Gemm" and not attributes.get("transB") else outputs
    constants = {"fc.weight": array(*weight), **norm(channels, shift=shift)}
    inputs = ["h", "fc.weight"]
    if bias:
        constants["fc.bias"] = array(outputs, seed=1)
        inputs.append("fc.bias")
    model = build([norm_node("x", "h"), node(op, inputs, ["y"], name="fc", **attributes)], constants, shape)
    graph = gs.import_onnx(model)
    result = fold_batchnorm(graph)
    assert ops(graph) == [op]
    assert result.folded == {"fc": "bn folded"}
    assert result.kept == {}
    assert_same_outputs(model, graph, array(*shape, seed=2))


def conv(source: str, result: str, name: str = "conv", **attributes: Any) -> onnx.NodeProto:
    return node("Conv", [source, f"{name}.weight"], [result], name=name, **attributes)


WEIGHT = {"conv.weight": array(4, 3, 3, 3)}
ODD = array(4, 3, 3, 3).astype(np.float64)
REFUSALS: dict[str, tuple[list[onnx.NodeProto], Constants, Sequence[str], str]] = {
    "graph_input": ([norm_node("x", "y")], norm(3), ["y"], "no linear layer before it (it reads a graph input)"),
    "after_relu": (
        [node("Relu", ["x"], ["h"], name="relu"), norm_node("h", "y")],
        norm(3),
        ["y"],
        "no linear layer before it (it reads Relu relu)",
    ),
    "conv_output_used_twice": (
        [conv("x", "h"), norm_node("h", "b"), node("Add", ["h", "b"], ["y"], name="add")],
        {**WEIGHT, **norm(4)},
        ["y"],
        "the output of conv is also read by add",
    ),
    "conv_output_is_a_model_output": (
        [conv("x", "h"), norm_node("h", "y")],
        {**WEIGHT, **norm(4)},
        ["y", "h"],
        "the output of conv is also an output of the model",
    ),
    "computed_weight": (
        [node("Neg", ["conv.weight"], ["w"]), node("Conv", ["x", "w"], ["h"], name="conv"), norm_node("h", "y")],
        {**WEIGHT, **norm(4)},
        ["y"],
        "the weight of conv is not a constant",
    ),
    "computed_scale": (
        [conv("x", "h"), node("Neg", ["s"], ["bn.scale"]), norm_node("h", "y")],
        {**WEIGHT, "s": array(4), **{key: value for key, value in norm(4).items() if key != "bn.scale"}},
        ["y"],
        "its scale is not a constant",
    ),
    "negative_variance": (
        [conv("x", "h"), norm_node("h", "y")],
        {**WEIGHT, **norm(4), "bn.var": np.array([1, 1, -1, 1], np.float32)},
        ["y"],
        "in channel 2, which has no square root",
    ),
    "shift_before_padding": (
        [norm_node("x", "h"), conv("h", "y", pads=[0, 0, 0, 1])],
        {**WEIGHT, **norm(3)},
        ["y"],
        "it shifts what conv pads with zeros",
    ),
    "shift_before_auto_pad": (
        [norm_node("x", "h"), conv("h", "y", auto_pad="SAME_LOWER")],
        {**WEIGHT, **norm(3)},
        ["y"],
        "it shifts what conv pads with zeros",
    ),
    "shift_before_transposed_convolution": (
        [norm_node("x", "h"), node("ConvTranspose", ["h", "t.weight"], ["y"], name="t")],
        {"t.weight": array(3, 2, 3, 3), **norm(3)},
        ["y"],
        "it shifts what t pads with zeros",
    ),
    "relu_behind": (
        [norm_node("x", "h"), node("Relu", ["h"], ["r"], name="relu"), conv("r", "y")],
        {**WEIGHT, **norm(3)},
        ["y"],
        "no linear layer behind it (Relu relu reads it)",
    ),
    "read_by_two_convs": (
        [norm_node("x", "h"), conv("h", "a"), conv("h", "b", "conv2"), node("Add", ["a", "b"], ["y"], name="add")],
        {**WEIGHT, "conv2.weight": array(4, 3, 3, 3, seed=3), **norm(3)},
        ["y"],
        "its output is read by several nodes",
    ),
    "output_before_conv": (
        [norm_node("x", "h"), conv("h", "y")],
        {**WEIGHT, **norm(3)},
        ["y", "h"],
        "its output is an output of the model",
    ),
}


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS.keys())
def test_a_norm_that_cannot_be_folded_has_a_reason(
    case: tuple[list[onnx.NodeProto], Constants, Sequence[str], str], opset: int
) -> None:
    nodes, constants, outputs, reason = case
    model = build(nodes, constants, (2, 3, 8, 8), opset=opset, outputs=outputs)
    graph = gs.import_onnx(model)
    result = fold_batchnorm(graph)
    assert result.folded == {}
    assert list(result.kept) == ["bn"]
    assert reason in result.kept["bn"]
    assert gs.export_onnx(graph).graph.node == model.graph.node


def test_a_norm_in_training_mode_is_not_folded() -> None:
    nodes = [conv("x", "h"), norm_node("h", "y", training_mode=1)]
    nodes[1].output.extend(["m", "v"])
    graph = gs.import_onnx(build(nodes, {**WEIGHT, **norm(4)}, (2, 3, 8, 8)))
    assert fold_batchnorm(graph).kept == {"bn": "it is in training mode"}


def test_a_bias_for_every_row_prevents_folding() -> None:
    gemm = node("Gemm", ["x", "fc.weight", "fc.bias"], ["h"], name="fc")
    constants = {"fc.weight": array(7, 5), "fc.bias": array(3, 5), **norm(5)}
    graph = gs.import_onnx(build([gemm, norm_node("h", "y")], constants, (3, 7)))
    assert "the bias of fc differs from row to row" in fold_batchnorm(graph).kept["bn"]


def test_double_weights_prevent_folding() -> None:
    constants = {"conv.weight": ODD, **{key: value.astype(np.float64) for key, value in norm(4).items()}}
    model = build([conv("x", "h"), norm_node("h", "y")], constants, (2, 3, 8, 8), dtype=onnx.TensorProto.DOUBLE)
    assert "the weight of conv is float64" in fold_batchnorm(gs.import_onnx(model)).kept["bn"]


def test_two_norms_around_one_layer_and_one_behind_another() -> None:
    nodes = [
        norm_node("x", "a", "bn0"),
        conv("a", "b"),
        norm_node("b", "c", "bn1"),
        norm_node("c", "d", "bn2"),
        node("Relu", ["d"], ["y"], name="relu"),
    ]
    model = build(nodes, {**WEIGHT, **norm(3, "bn0"), **norm(4, "bn1"), **norm(4, "bn2")}, (2, 3, 8, 8))
    graph = gs.import_onnx(model)
    assert fold_batchnorm(graph).folded == {"conv": "bn0 and bn1 and bn2 folded"}
    assert ops(graph) == ["Conv", "Relu"]
    assert_same_outputs(model, graph, array(2, 3, 8, 8, seed=2))


def test_shared_weights_and_norm_parameters_change_for_one_layer_only() -> None:
    nodes = [
        conv("x", "a"),
        norm_node("a", "b"),
        node("Conv", ["x", "conv.weight"], ["c"], name="twin"),
        node("Add", ["b", "c"], ["y"], name="add"),
    ]
    model = build(nodes, {**WEIGHT, **norm(4)}, (2, 3, 8, 8))
    graph = gs.import_onnx(model)
    fold_batchnorm(graph)
    assert sorted(ops(graph)) == ["Add", "Conv", "Conv"]
    assert graph.nodes[0].inputs[1].name == "conv.weight_1"
    assert_same_outputs(model, graph, array(2, 3, 8, 8, seed=2))


@pytest.mark.parametrize("equal", [True, False], ids=["equal", "different"])
@pytest.mark.parametrize("channels", [4, 128])
def test_norms_behind_layers_that_share_a_weight(channels: int, equal: bool) -> None:
    """Equal ones leave one weight. Different ones leave it too if it is large, and are not folded then."""
    weight = array(channels, 3, 14, 14)  # 128 channels: 301 kB
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="left", pads=[7] * 4),
        norm_node("a", "b", "bn0"),
        node("Neg", ["x"], ["n"], name="neg"),
        node("Conv", ["n", "w"], ["c"], name="right", pads=[7] * 4),
        norm_node("c", "d", "bn0" if equal else "bn1"),
        node("Add", ["b", "d"], ["y"], name="add"),
    ]
    nodes[4].name = "second"
    other = norm(channels, "bn1") | {"bn1.scale": array(channels)}
    norms = norm(channels, "bn0") | ({} if equal else other)
    model = build(nodes, {"w": weight, **norms}, (2, 3, 8, 8))
    graph = gs.import_onnx(model)
    result = fold_batchnorm(graph)
    assert_same_outputs(model, graph, array(2, 3, 8, 8, seed=2))
    weights = [each.inputs[1] for each in graph.nodes if each.op == "Conv"]
    large = channels == 128
    assert (weights[0] is weights[1]) == (equal or large)
    assert (ops(graph).count("BatchNormalization") == 2) == (large and not equal)
    if large and not equal:
        assert "left shares w with right, and would need a copy" in result.kept["bn0"]


def test_a_copy_of_the_graph_keeps_its_weights() -> None:
    model = build([conv("x", "h"), norm_node("h", "y")], {**WEIGHT, **norm(4)}, (2, 3, 8, 8))
    graph = gs.import_onnx(model)
    _ = [
        tensor.values for tensor in graph.tensors().values() if isinstance(tensor, gs.Constant)
    ]  # loaded, so both graphs share them
    copy = graph.copy()
    fold_batchnorm(graph)
    assert_same_outputs(model, copy, array(2, 3, 8, 8, seed=2))


def test_a_bias_name_that_is_taken_gets_a_number() -> None:
    nodes = [conv("x", "h"), norm_node("h", "b"), node("Add", ["b", "conv.bias"], ["y"], name="add")]
    model = build(nodes, {**WEIGHT, **norm(4), "conv.bias": array(1)}, (2, 3, 8, 8))
    graph = gs.import_onnx(model)
    fold_batchnorm(graph)
    assert {"conv.bias", "conv.bias_1"} <= tensor_names(graph)
    assert_same_outputs(model, graph, array(2, 3, 8, 8, seed=2))
