"""Rescaling through every operator that allows it: onnxruntime computes the same before and after.

Tolerance: weights are rounded to float32 once more. 2e-5 of max|y| is a few roundings of a sum of about 50 products. A
scale that is missing or applied twice changes the output by as much as the scale itself.
"""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.ir.model import Model
from passes.scale_migration.rescale import rescale
from passes.scale_migration.scale_groups import ScaleGroups, scale_groups
from tests.support.channel_paths import PASSED, Constants, between, drawn_network
from tests.support.graphs import array, assert_same_outputs, build, node
from tests.support.integer_rules import RULES
from tests.support.networks import prepared, resnet

TOLERANCE = 2e-5


def rescaled(proto: onnx.ModelProto, seed: int = 0, spread: float = 2.0) -> tuple[Model, ScaleGroups]:
    """Rescale every group of the model by random factors of about exp(± 2 spread)."""
    model = Model(gs.import_onnx(proto), RULES)
    analysis = scale_groups(model)
    rng = np.random.default_rng(seed)
    for group in analysis.groups:
        rescale(model, group, np.exp(rng.uniform(-spread, spread, group.size)))
    return model, analysis


@pytest.mark.parametrize(("nodes", "constants", "last"), PASSED.values(), ids=PASSED.keys())
def test_a_scale_passes(nodes: list[onnx.NodeProto], constants: Constants, last: int) -> None:
    proto = between(nodes, constants, last=last)
    model, analysis = rescaled(proto)
    assert "conv1" not in analysis.outputs
    assert "conv2" not in analysis.inputs
    before = gs.import_onnx(proto)
    for name in ("conv1", "conv2"):  # both are rescaled
        old, new = (next(n for n in graph.nodes if n.name == name) for graph in (before, model.graph))
        assert np.abs(old.inputs[1].values / new.inputs[1].values - 1).max() > 0.1
    assert_same_outputs(proto, model.graph, array(2, 3, 8, 8, seed=9), TOLERANCE)


HEADS = {
    "gemm": (node("Gemm", ["f", "w", "b"], ["y"], name="fc"), (24, 5)),
    "gemm_transposed": (node("Gemm", ["f", "w", "b"], ["y"], name="fc", transB=1), (5, 24)),
    "matmul": (node("MatMul", ["f", "w"], ["y"], name="fc"), (24, 5)),
}


@pytest.mark.parametrize(("head", "shape"), HEADS.values(), ids=HEADS.keys())
def test_a_scale_passes_a_flatten_into_every_position_of_its_channel(
    head: onnx.NodeProto, shape: tuple[int, int]
) -> None:
    nodes = [
        node("Conv", ["x", "c.w", "c.b"], ["h"], name="c"),
        node("AveragePool", ["h"], ["p"], name="pool", kernel_shape=[3, 3], strides=[3, 3]),
        node("Flatten", ["p"], ["f"], name="flatten"),
        head,
    ]
    constants = {"c.w": array(6, 3, 3, 3), "c.b": array(6), "w": array(*shape), "b": array(1, 5)}
    constants = {name: value for name, value in constants.items() if name != "b" or len(head.input) == 3}
    proto = build(nodes, constants, ("N", 3, 8, 8))
    model, analysis = rescaled(proto)
    (group,) = analysis.groups
    np.testing.assert_array_equal(group.consumers["fc"], np.repeat(np.arange(6), 4))
    assert_same_outputs(proto, model.graph, array(2, 3, 8, 8), TOLERANCE)


@pytest.mark.parametrize("constants", [["gamma"], ["gamma", "beta"]])
def test_layer_normalization_takes_the_scales_of_its_readers(constants: list[str]) -> None:
    nodes = [
        node("MatMul", ["x", "a.w"], ["a"], name="a"),
        node("LayerNormalization", ["a", *constants], ["n"], name="norm"),
        node("MatMul", ["n", "b.w"], ["b"], name="b"),
        node("MatMul", ["n", "c.w"], ["c"], name="c"),
        node("Mul", ["b", "c"], ["y"], name="product"),
    ]
    values = {"a.w": array(6, 8), "gamma": array(8), "beta": array(8, seed=1), "b.w": array(8, 5), "c.w": array(8, 5)}
    proto = build(nodes, {name: values[name] for name in ("a.w", "b.w", "c.w", *constants)}, ("N", 4, 6), opset=18)
    model, analysis = rescaled(proto)
    (group,) = analysis.groups
    assert (group.size, set(group.consumers), set(group.norms_before)) == (8, {"b", "c"}, {"norm"})
    assert "it normalizes over the channels" in analysis.outputs["a"]
    changed = next(each for each in model.graph.nodes if each.name == "norm").inputs[1].values
    assert np.abs(changed / values["gamma"] - 1).max() > 0.1
    assert_same_outputs(proto, model.graph, array(2, 4, 6, seed=9), TOLERANCE)


def test_a_scale_passes_layers_over_the_last_axis() -> None:
    nodes = [
        node("MatMul", ["x", "a.w"], ["a"], name="a"),
        node("Relu", ["a"], ["r"], name="relu"),
        node("Add", ["r", "shift"], ["s"], name="shift"),
        node("MatMul", ["s", "b.w"], ["y"], name="b"),
    ]
    constants = {"a.w": array(7, 5), "b.w": array(5, 4), "shift": array(5)}
    proto = build(nodes, constants, ("N", 6, 7))
    model, analysis = rescaled(proto)
    assert [group.size for group in analysis.groups] == [5]
    assert_same_outputs(proto, model.graph, array(2, 6, 7), TOLERANCE)


def test_a_shared_constant_is_not_rescaled_for_its_other_readers() -> None:
    nodes = [
        node("Add", ["h", "c"], ["a"], name="add"),
        node("Relu", ["a"], ["k"], name="relu"),
        node("Add", ["x", "c"], ["y2"], name="other"),
    ]
    proto = between(nodes, {"c": array(1, 1, 8, 8)})
    proto.graph.output.append(onnx.helper.make_tensor_value_info("y2", 1, ("N", 3, 8, 8)))
    model, analysis = rescaled(proto)
    assert [group.size for group in analysis.groups] == [6]
    assert_same_outputs(proto, model.graph, array(2, 3, 8, 8), TOLERANCE)


@settings(max_examples=40)
@given(proto=drawn_network(), seed=st.integers(0, 2**32 - 1))
def test_random_networks_compute_the_same(proto: onnx.ModelProto, seed: int) -> None:
    model, _ = rescaled(proto, seed)
    assert_same_outputs(proto, model.graph, array(2, 3, 6, 6, seed=seed), 5e-5)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_residual_network_with_one_of_everything_computes_the_same(seed: int) -> None:
    model = prepared(resnet())
    before = gs.export_onnx(model.graph)
    rng = np.random.default_rng(seed)
    for group in scale_groups(model).groups:
        rescale(model, group, np.exp(rng.uniform(-3, 3, group.size)))
    assert_same_outputs(before, model.graph, array(2, 3, 12, 12), TOLERANCE)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_factors_that_are_not_positive_are_refused(bad: float) -> None:
    model = Model(gs.import_onnx(between([node("Relu", ["h"], ["k"], name="op")], {})), RULES)
    (group,) = scale_groups(model).groups
    with pytest.raises(ValueError, match="a group of 6 scales needs as many finite, positive factors"):
        rescale(model, group, np.array([1, 1, bad, 1, 1, 1]))
    with pytest.raises(ValueError, match="a group of 6 scales"):
        rescale(model, group, np.ones(5))
