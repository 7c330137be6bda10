from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper

from passes.errors import ModelError
from passes.graph.normalise.normalise import normalise
from tests.support.graphs import array, assert_same_outputs, build, node, ops
from tests.support.normalised_graphs import IMAGE, constant, conv, normalised

OPSETS = pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])


# --- no-ops ----------------------------------------------------------------------------------------------------------


def test_identity_and_dropout_are_removed() -> None:
    nodes = [
        node("Identity", ["x"], ["a"]),
        conv("a", "b"),
        node("Dropout", ["b"], ["c"]),
        node("Relu", ["c"], ["d"]),
        node("Identity", ["d"], ["y"]),
    ]
    graph = normalised(build(nodes, {"conv.weight": array(4, 3, 3, 3)}, IMAGE))
    assert ops(graph) == ["Conv", "Relu"]


def test_dropout_with_a_ratio_and_a_false_training_mode_is_removed() -> None:
    nodes = [constant("t", np.array(False)), node("Dropout", ["x", "r", "t"], ["a"]), node("Relu", ["a"], ["y"])]
    assert ops(normalised(build(nodes, {"r": np.array(0.5, np.float32)}, IMAGE))) == ["Relu"]


def test_dropout_of_opset_11_is_removed() -> None:
    nodes = [node("Dropout", ["x"], ["a", "mask"], ratio=0.3), node("Relu", ["a"], ["y"])]
    assert ops(normalised(build(nodes, {}, IMAGE, opset=11))) == ["Relu"]


def test_an_identity_between_two_outputs_keeps_both_names() -> None:
    nodes = [node("Relu", ["x"], ["a"]), node("Identity", ["a"], ["y"]), node("Neg", ["a"], ["z"])]
    graph = normalised(build(nodes, {}, IMAGE, outputs=["y", "z"]))
    assert sorted(ops(graph)) == ["Neg", "Relu"]
    graph = normalised(build(nodes, {}, IMAGE, outputs=["y", "a"]))
    assert sorted(ops(graph)) == ["Identity", "Relu"]


def test_an_identity_from_input_to_output_stays() -> None:
    graph = normalised(
        build([node("Identity", ["x"], ["y"]), node("Relu", ["x"], ["z"])], {}, IMAGE, outputs=["y", "z"])
    )
    assert sorted(ops(graph)) == ["Identity", "Relu"]


def test_dropout_whose_mask_is_read_stays() -> None:
    nodes = [node("Dropout", ["x"], ["a", "m"]), node("Not", ["m"], ["z"]), node("Relu", ["a"], ["y"])]
    graph = normalised(build(nodes, {}, IMAGE, outputs=["y", "z"]))
    assert "Dropout" in ops(graph)


# --- names and sharing -----------------------------------------------------------------------------------------------


def test_names_come_from_weights_and_existing_ones_stay() -> None:
    nodes = [
        node("Conv", ["x", "layer1.0.conv1.weight"], ["a"]),
        node("Conv", ["a", "layer1/conv2/kernel:0"], ["b"], name="7"),
        node("Conv", ["b", "onnx::Conv_12"], ["c"]),
        node("Relu", ["c"], ["d"], name="Relu_0"),
        node("Relu", ["d"], ["e"]),
        node("Conv", ["e", "w"], ["f"], name="keep me"),
        node("Relu", ["f"], ["y"], name="keep me"),  # onnxruntime refuses files with a name twice
    ]
    weights = {
        "layer1.0.conv1.weight": array(4, 3, 1, 1),
        "layer1/conv2/kernel:0": array(4, 4, 1, 1),
        "onnx::Conv_12": array(4, 4, 1, 1),
        "w": array(4, 4, 1, 1),
    }
    graph = gs.import_onnx(build(nodes, weights, IMAGE))
    normalise(graph)
    names = [node.name for node in graph.nodes]
    assert names == ["layer1.0.conv1", "layer1/conv2", "Conv_0", "Relu_0", "Relu_1", "keep me", "keep me_1"]


@pytest.mark.parametrize(
    ("weight", "names"),
    [("0.weight", ["0", "1"]), ("w", ["Conv_0", "Relu_0"]), ("10.weight", ["Conv_0", "Relu_0"])],
    ids=["module_paths", "numbers", "other_numbers"],
)
def test_numbers_stay_as_names_if_they_are_module_paths(weight: str, names: list[str]) -> None:
    """The layers of a torch.nn.Sequential are called 0 and 1. Other exporters number nodes in order."""
    nodes = [conv("x", "a", "0", weight), node("Relu", ["a"], ["y"], name="1")]
    graph = gs.import_onnx(build(nodes, {weight: array(4, 3, 3, 3)}, IMAGE))
    normalise(graph)
    assert [node.name for node in graph.nodes] == names


def test_layers_share_a_weight_with_layers_only_that_read_it_alike() -> None:
    nodes = [
        node("Conv", ["x", "c.weight", "c.bias"], ["a"]),
        node("Conv", ["x", "c.weight", "c.bias"], ["b"], auto_pad="VALID"),
        node("Add", ["a", "b"], ["d"]),
        node("Mul", ["d", "scale"], ["e"]),
        node("Conv", ["e", "scale"], ["y"], name="head"),
    ]
    constants = {"c.weight": array(4, 3, 1, 1), "c.bias": array(4), "scale": array(1, 4, 1, 1)}
    graph = normalised(build(nodes, constants, IMAGE))
    layers = [node for node in graph.nodes if node.op == "Conv"]
    owned = [tensor.name for layer in layers for tensor in layer.inputs[1:]]
    assert owned == ["c.weight", "c.bias", "c.weight", "c.bias", "head.weight"]
    assert [layer.name for layer in layers] == ["c", "c_1", "head"]
    assert graph.nodes[-2].inputs[1].name == "scale"


# --- control flow and refusals ---------------------------------------------------------------------------------------


def branch(name: str, nodes: list[onnx.NodeProto], result: str) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)])


def if_node(condition: str) -> onnx.NodeProto:
    return node(
        "If",
        [condition],
        ["h"],
        name="choice",
        then_branch=branch("then", [node("Relu", ["x"], ["r"]), node("Neg", ["r"], ["out"])], "out"),
        else_branch=branch("else", [node("Identity", ["x"], ["out"])], "out"),
    )


@pytest.mark.parametrize(("condition", "expected"), [(True, ["Relu", "Neg", "Exp"]), (False, ["Exp"])])
def test_an_if_with_a_constant_condition_becomes_its_branch(condition: bool, expected: list[str]) -> None:
    nodes = [constant("c", np.array(condition)), if_node("c"), node("Exp", ["h"], ["y"])]
    assert ops(normalised(build(nodes, {}, IMAGE))) == expected


def test_two_ifs_may_use_the_same_names_inside() -> None:
    second = if_node("c")
    second.name, second.output[0] = "other", "i"
    nodes = [if_node("c"), second, node("Add", ["h", "i"], ["y"])]
    graph = normalised(build(nodes, {"c": np.array(True)}, IMAGE))
    assert sorted(ops(graph)) == ["Add", "Neg", "Relu"]


def test_an_if_inside_of_a_branch_that_is_taken_reads_what_it_read_before() -> None:
    inner = node(
        "If",
        ["inner"],
        ["q"],
        then_branch=branch("deep then", [node("Neg", ["g"], ["deep"])], "deep"),
        else_branch=branch("deep else", [node("Abs", ["x"], ["deep"])], "deep"),
    )
    most = [node("ReduceMax", ["g"], ["m"], keepdims=0), node("Greater", ["m", "zero"], ["inner"])]
    then = [node("Relu", ["x"], ["g"]), *most, inner, node("Add", ["q", "x"], ["out"])]
    outer = node(
        "If",
        ["c"],
        ["h"],
        then_branch=branch("then", then, "out"),
        else_branch=branch("else", [node("Identity", ["x"], ["out"])], "out"),
    )
    nodes = [node("Neg", ["x"], ["s"]), outer, node("Sub", ["h", "s"], ["y"])]
    constants = {"c": np.array(True), "zero": np.array(0, np.float32)}
    assert ops(normalised(build(nodes, constants, IMAGE))) == [
        "Neg",
        "Relu",
        "ReduceMax",
        "Greater",
        "If",
        "Add",
        "Sub",
    ]


def training_norm() -> onnx.ModelProto:
    norm = node("BatchNormalization", ["x", "s", "s", "s", "s"], ["y", "m", "v"], name="bn1", training_mode=1)
    return build([norm], {"s": np.ones(3, np.float32)}, IMAGE)


def training_dropout() -> onnx.ModelProto:
    return build([node("Dropout", ["x", "", "t"], ["y"], name="drop")], {"t": np.array(True)}, IMAGE)


def computed_dropout() -> onnx.ModelProto:
    nodes = [node("ReduceMax", ["x"], ["m"], keepdims=0), node("Cast", ["m"], ["t"], to=TensorProto.BOOL)]
    return build([*nodes, node("Dropout", ["x", "", "t"], ["y"])], {}, IMAGE)


def layer_of(dtype: Any, code: int) -> onnx.ModelProto:
    cast = [node("Cast", ["x"], ["h"], to=code), conv("h", "y", "conv1")]
    return build(cast, {"conv1.weight": array(4, 3, 1, 1).astype(dtype)}, IMAGE, opset=22)


def spoilt(value: float, name: str) -> onnx.ModelProto:
    """Make Conv and BatchNormalization with one entry of a constant that is not finite."""
    constants = {"conv1.weight": array(4, 3, 1, 1), "conv1.bias": array(4), "gain": array(4), "shift": array(4)}
    constants |= {"mean": array(4), "var": np.abs(array(4))}
    constants[name].flat[1] = value
    layer = node("Conv", ["x", "conv1.weight", "conv1.bias"], ["a"], name="conv1")
    norm = node("BatchNormalization", ["a", "gain", "shift", "mean", "var"], ["y"], name="bn1")
    return build([layer, norm], constants, IMAGE)


REFUSALS: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "batchnorm": (training_norm, r"bn1 is in training mode; call model.eval\(\)"),
    "dropout": (training_dropout, r"drop is in training mode; call model.eval\(\)"),
    "computed_dropout": (computed_dropout, "the Dropout that computes y is in training mode"),
    "float16": (lambda: layer_of(np.float16, TensorProto.FLOAT16), "conv1.weight is float16; export .* float32"),
    "float64": (lambda: layer_of(np.float64, TensorProto.DOUBLE), "conv1.weight is float64; export .* float32"),
    "nan_weight": (
        lambda: spoilt(np.nan, "conv1.weight"),
        "conv1.weight, which conv1 reads, holds NaN; export .*finite",
    ),
    "inf_bias": (lambda: spoilt(-np.inf, "conv1.bias"), "conv1.bias, which conv1 reads, holds Inf; export .*finite"),
    "nan_norm": (lambda: spoilt(np.nan, "var"), "var, which bn1 reads, holds NaN; export .*finite"),
    "bfloat16": (lambda: layer_of(ml_dtypes.bfloat16, TensorProto.BFLOAT16), "conv1.weight is bfloat16"),
}


@pytest.mark.parametrize(("model", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_unsupported_nodes_are_refused_by_name(model: Callable[[], onnx.ModelProto], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        normalise(gs.import_onnx(model()))


# --- as a whole ------------------------------------------------------------------------------------------------------


def whole_network(opset: int) -> onnx.ModelProto:
    nodes = [
        constant("stem.weight", array(4, 3, 3, 3)),
        node("Identity", ["stem.weight"], ["w"]),
        node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "body.weight"], ["c"]),
        node("Conv", ["b", "body.weight"], ["d"], auto_pad="VALID"),
        node("Add", ["c", "d"], ["e"]),
        node("GlobalAveragePool", ["e"], ["f"]),
        node("Reshape", ["f", "t"], ["g"]),
        node("Dropout", ["g"], ["h"]),
        node("MatMul", ["h", "fc.weight"], ["i"]),
        node("Add", ["i", "fc.bias"], ["y"]),
    ]
    constants = {
        "body.weight": array(4, 4, 3, 3),
        "t": np.array([0, -1]),
        "fc.weight": array(4, 5),
        "fc.bias": array(5),
    }
    return build(nodes, constants, ("N", 3, 8, 8), opset=opset)


@OPSETS
def test_a_whole_network_is_normalised_and_a_second_run_changes_nothing(opset: int) -> None:
    model = whole_network(opset)
    graph = gs.import_onnx(model)
    notes = normalise(graph)
    assert_same_outputs(model, graph, array(*IMAGE))
    assert ops(graph) == ["Conv", "Relu", "Conv", "Conv", "Add", "GlobalAveragePool", "Flatten", "Gemm"]
    assert [n.name for n in graph.nodes if n.op in ("Conv", "Gemm")] == ["stem", "body", "body_1", "fc"]
    assert len(notes) == len(set(notes)) == 6
    assert normalise(graph) == []


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    normalise(gs.import_onnx(whole_network(17)))
    assert capfd.readouterr() == ("", "")
