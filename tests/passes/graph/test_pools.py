"""Pools on integers: an average is a depthwise convolution, and a maximum stays in float where its kernel is slow."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from converter import convert
from converter.targets.catalog import find_target
from passes.activations.placement import place
from passes.graph.integer_forms.integer_forms import IntegerForms
from passes.ir.linear import linear_layers
from passes.ir.model import Model
from passes.ir.rules import Rules
from passes.numerics.error import sqnr_db
from passes.statistics import Stats
from tests.support.graphs import array, assert_same_outputs, build, node, ops
from tests.support.networks import optimized, run

CPU = find_target("cpu").rules
IMAGE = ("n", 8, 9, 9)
X = array(64, 8, 9, 9)
POOLED: dict[str, Any] = {"kernel_shape": [3, 3]}


def around(middle: list[onnx.NodeProto], tail: str = "Conv") -> onnx.ModelProto:
    """conv -> a, ``middle`` from a to b, then a convolution or a mean and a Gemm."""
    weights = {"w": array(8, 8, 1, 1) / 3, "last": array(8, 8, 1, 1) / 3, "fc": array(8, 4) / 3}
    end = [node("Conv", ["b", "last"], ["y"], name="last")]
    if tail == "Gemm":
        end = [node("GlobalAveragePool", ["b"], ["m"], name="mean"), node("Flatten", ["m"], ["f"], name="flat")]
        end.append(node("Gemm", ["f", "fc"], ["y"], name="fc"))
    nodes = [node("Conv", ["x", "w"], ["a"], name="first"), *middle, *end]
    read = {name for each in nodes for name in each.input}
    return build(nodes, {name: value for name, value in weights.items() if name in read}, IMAGE)


def rewritten(model: onnx.ModelProto, rules: Rules = CPU) -> gs.Graph:
    work = Model(gs.import_onnx(model), rules)
    IntegerForms().apply(work, Stats())
    assert_same_outputs(model, work.graph, X[:2])
    return work.graph


def average(**attributes: Any) -> onnx.ModelProto:
    return around([node("AveragePool", ["a"], ["b"], name="pool", **POOLED | attributes)])


@pytest.mark.parametrize(
    "attributes",
    [{}, {"strides": [2, 2]}, {"pads": [1, 1, 1, 1], "count_include_pad": 1}, {"kernel_shape": [2, 3]}],
)
def test_an_average_becomes_a_depthwise_convolution(attributes: dict[str, Any]) -> None:
    graph = rewritten(average(**attributes))
    assert ops(graph) == ["Conv", "Conv", "Conv"]
    assert graph.nodes[1].name == "pool"


@pytest.mark.parametrize(
    "attributes",
    [{"pads": [1, 1, 1, 1]}, {"auto_pad": "SAME_UPPER"}, {"kernel_shape": [9, 9]}, {"strides": [4, 4], "ceil_mode": 1}],
)
def test_an_average_of_changing_weights_or_a_large_window_stays(attributes: dict[str, Any]) -> None:
    assert "AveragePool" in ops(rewritten(average(**attributes)))


def test_an_average_stays_for_targets_that_do_not_gain_and_between_floats() -> None:
    assert "AveragePool" in ops(rewritten(average(), find_target("qnn").rules))
    pool = node("AveragePool", ["x"], ["b"], name="pool", **POOLED)
    end = [node("Conv", ["b", "w"], ["y"], name="last")]
    assert "AveragePool" in ops(rewritten(build([pool, *end], {"w": array(8, 8, 1, 1)}, IMAGE)))


@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_the_average_is_exact_and_on_integers(recipe: str, tmp_path: Path) -> None:
    model = average()
    result = convert(model, X, recipe=recipe)
    assert "AveragePool" not in {each.op_type for each in result.model.graph.node}
    loss = next(layer.after_db for layer in result.layers if layer.name == "pool")
    assert loss is not None
    assert loss > 60
    assert optimized(result.model, tmp_path)["QLinearConv"] == 3
    assert sqnr_db(run(model, X)[0], run(result.model, X)[0]) > (30 if recipe == "int8" else 13)


def pooled(act: list[onnx.NodeProto], tail: str) -> onnx.ModelProto:
    return around([*act, node("MaxPool", ["u"], ["b"], name="pool", **POOLED)], tail)


RELU = [node("Relu", ["a"], ["u"], name="act")]
LEAKY = [node("LeakyRelu", ["a"], ["u"], name="act")]
SILU = [node("Sigmoid", ["a"], ["s"], name="sigmoid"), node("Mul", ["a", "s"], ["u"], name="act")]
TWICE = [node("MaxPool", ["a"], ["u"], name="act", **POOLED)]


@pytest.mark.parametrize(
    ("act", "tail", "integer"),
    [
        (RELU, "Conv", True),
        (RELU, "Gemm", True),
        (TWICE, "Gemm", True),
        (LEAKY, "Conv", True),
        (SILU, "Conv", True),
        (LEAKY, "Gemm", False),
        (SILU, "Gemm", False),
    ],
)
def test_a_maximum_runs_on_integers_next_to_convolutions(act: list[onnx.NodeProto], tail: str, integer: bool) -> None:
    graph = gs.import_onnx(pooled(act, tail))
    placement = place(graph, CPU, frozenset(linear_layers(graph)))
    assert ("pool" in placement.integer) == integer
    if not integer:
        assert "pool" in place(graph, find_target("qnn").rules, frozenset(linear_layers(graph))).integer


@pytest.mark.parametrize("act", [RELU, LEAKY, SILU])
@pytest.mark.parametrize("tail", ["Conv", "Gemm"])
def test_no_file_has_a_maximum_of_integers_with_channels_first(
    act: list[onnx.NodeProto], tail: str, tmp_path: Path
) -> None:
    model = pooled(act, tail)
    quantized = convert(model, X).model
    path = tmp_path / "optimized.onnx"
    operators = optimized(quantized, tmp_path)
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(onnx.load(path)).graph.value_info
    }
    pools = [each for each in onnx.load(path).graph.node if each.op_type == "MaxPool"]
    assert operators["NhwcMaxPool"] + len(pools) == 1
    assert all(types.get(each.input[0], onnx.TensorProto.FLOAT) == onnx.TensorProto.FLOAT for each in pools)
    assert sqnr_db(run(model, X)[0], run(quantized, X)[0]) > 30


@pytest.mark.parametrize("middle", [[], RELU, LEAKY])
def test_a_maximum_of_floats_stays_in_float_before_a_layer_on_integers(
    middle: list[onnx.NodeProto], tmp_path: Path
) -> None:
    """onnxruntime would move the QuantizeLinear in front of it, where channels come first."""
    model = pooled(middle or [node("Identity", ["a"], ["u"])], "Conv")
    quantized = convert(model, X, exclude=["first"]).model
    path = tmp_path / "optimized.onnx"
    optimized(quantized, tmp_path)
    makers = {output: each for each in onnx.load(path).graph.node for output in each.output}
    (quantizer,) = [each for each in makers.values() if each.op_type == "QuantizeLinear"]
    kept = makers[quantizer.input[0]]
    assert kept.op_type == "Max"
    before = makers[kept.input[0]]
    assert (makers[before.input[0]] if before.op_type == "ReorderOutput" else before).op_type == "MaxPool"
    assert sqnr_db(run(model, X)[0], run(quantized, X)[0]) > 30


def test_a_maximum_stays_as_it_is_for_other_targets() -> None:
    quantized = convert(pooled(LEAKY, "Conv"), X, target="qnn", exclude=["first"]).model
    assert "Max" not in {each.op_type for each in quantized.graph.node}


def test_names_of_pools_are_free() -> None:
    """A constant of the model may have the name of the weight."""
    model = average()
    model.graph.initializer[0].name = model.graph.node[0].input[1] = "pool.weight_mean"
    graph = rewritten(model)
    assert len({each.inputs[1].name for each in graph.nodes}) == 3
    np.testing.assert_allclose(graph.nodes[1].inputs[1].values, 1 / 9)
