"""Depthwise convolutions are filled up to whole blocks of channels, and the network computes the same."""

import dataclasses
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from converter.targets.catalog import find_target
from passes.graph.integer_forms.integer_forms import IntegerForms
from passes.graph.normalise.normalise import normalise
from passes.ir.linear import linear_layers
from passes.ir.model import Model
from passes.ir.rules import Rules
from passes.statistics import Stats
from tests.support.graphs import array, assert_same_outputs, build, node

CPU = find_target("cpu").rules
IMAGE = (1, 12, 24, 24)
X = array(*IMAGE)


def network(
    channels: int,
    middle: list[onnx.NodeProto] | None = None,
    *,
    before: str = "Relu",
    kernel: int = 3,
    image: tuple[int, ...] = IMAGE,
    outputs: tuple[str, ...] = ("y",),
    **constants: Any,
) -> onnx.ModelProto:
    """1x1 convolution, activation, depthwise convolution from b to d, `middle` from d to e, 1x1 convolution."""
    nodes = [
        node("Conv", ["x", "w0", "bias0"], ["a"], name="widen"),
        node(before, ["a"], ["b"], name="act"),
        node("Conv", ["b", "w1"], ["d"], name="deep", group=channels, pads=[kernel // 2] * 4),
        *(middle or [node("Relu", ["d"], ["e"], name="relu")]),
        node("Conv", ["e", "w2", "bias2"], ["y"], name="narrow"),
    ]
    weights = {
        "w0": array(channels, 12, 1, 1),
        "bias0": array(channels),
        "w1": array(channels, 1, kernel, kernel),
        "w2": array(20, channels, 1, 1),
        "bias2": array(20),
    }
    return build(nodes, weights | constants, image, outputs=outputs)


def squeeze(gate: str) -> list[onnx.NodeProto]:
    """A squeeze-and-excitation block from d to e."""
    return [
        node("GlobalAveragePool", ["d"], ["p"], name="pool"),
        node("Conv", ["p", "s0"], ["q"], name="squeeze"),
        node("Conv", ["q", "s1"], ["r"], name="excite"),
        node(gate, ["r"], ["g"], name="gate"),
        node("Mul", ["d", "g"], ["e"], name="scale"),
    ]


def filled(model: onnx.ModelProto, rules: Rules = CPU) -> tuple[gs.Graph, list[str]]:
    work = Model(gs.import_onnx(model), rules)
    normalise(work.graph)
    report = IntegerForms().apply(work, Stats())
    return work.graph, [note for note in report.notes if "filled" in note]


@pytest.mark.parametrize(
    ("channels", "wanted", "options"),
    [
        (58, 64, {}),
        (116, 128, {"before": "LeakyRelu"}),
        (24, 32, {"kernel": 5, "before": "HardSwish"}),
        (40, 48, {"middle": [node("Identity", ["d"], ["e"])]}),
        (72, 80, {"middle": [node("Add", ["d", "b"], ["e"], name="shortcut")]}),
        (72, 80, {"middle": squeeze("Sigmoid"), "s0": array(8, 72, 1, 1), "s1": array(72, 8, 1, 1)}),
        (88, 96, {"middle": squeeze("HardSigmoid"), "s0": array(8, 88, 1, 1), "s1": array(88, 8, 1, 1)}),
    ],
)
def test_filled_up_and_computes_the_same(channels: int, wanted: int, options: dict[str, Any]) -> None:
    model = network(channels, **options)
    graph, notes = filled(model)
    assert notes == [f"deep: {channels} channels filled up to {wanted}"]
    layers = linear_layers(graph)
    assert layers["widen"].outputs == layers["deep"].groups == layers["narrow"].inputs == wanted
    assert layers["narrow"].outputs == 20
    assert_same_outputs(model, graph, X, tolerance=1e-6)


def test_what_was_there_stays_bit_for_bit() -> None:
    model = network(58)
    graph, _ = filled(model)
    for name, axis in (("w0", 0), ("bias0", 0), ("w1", 0), ("w2", 1)):
        before = next(onnx.numpy_helper.to_array(each) for each in model.graph.initializer if each.name == name)
        after = np.asarray(graph.tensors()[name].values)
        old, new = np.split(after, [58], axis)
        assert np.array_equal(old, before)
        assert not new.any()


def test_two_depthwise_layers_of_one_region_are_filled_together() -> None:
    middle = [
        node("Conv", ["d", "w3"], ["f"], name="again", group=58, pads=[1, 1, 1, 1]),
        node("Clip", ["f", "low", "high"], ["e"], name="clip"),
    ]
    limits: dict[str, Any] = {"low": np.float32(0).reshape(()), "high": np.float32(6).reshape(())}
    model = network(58, middle, w3=array(58, 1, 3, 3), **limits)
    graph, notes = filled(model)
    assert sorted(notes) == ["again: 58 channels filled up to 64", "deep: 58 channels filled up to 64"]
    assert_same_outputs(model, graph, X, tolerance=1e-6)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        pytest.param(network(64), "whole blocks", id="whole_blocks"),
        pytest.param(network(58, outputs=("y", "d")), "an output of the graph", id="graph_output"),
        pytest.param(network(58, outputs=("y", "b")), "an output of the graph", id="graph_output_before"),
        pytest.param(network(58, [node("Softmax", ["d"], ["e"], axis=1)]), "mixes channels", id="softmax"),
        pytest.param(
            network(58, [node("Mul", ["d", "scale"], ["e"])], scale=array(1, 58, 1, 1)), "a constant", id="constant"
        ),
        pytest.param(
            network(58, [node("Concat", ["d", "x"], ["e"], axis=1)], w2=array(20, 70, 1, 1)), "a Concat", id="concat"
        ),
        pytest.param(network(58, w2=array(20, 29, 1, 1)), "groups", id="groups"),
    ],
)
def test_others_stay(model: onnx.ModelProto, reason: str) -> None:
    if reason == "groups":
        model.graph.node[-1].attribute.append(onnx.helper.make_attribute("group", 2))
    graph, notes = filled(model)
    assert not notes
    assert linear_layers(graph)["deep"].groups in {58, 64}
    assert_same_outputs(model, graph, X)


@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize("image", [(1, 12, 1, 2048), (1, 12, 58, 24)])
def test_channels_that_meet_another_axis_stay(op: str, image: tuple[int, ...]) -> None:
    """The operand with fewer axes has its channels on axis 2 of the other. With 64 channels the result was another."""
    middle = [
        node("ReduceMean", ["x"], ["r"], name="mean", axes=[2], keepdims=0),
        node("Conv", ["r", "w3"], ["v"], name="line"),
        node(op, ["d", "v"], ["f"], name="meet"),
        node("GlobalAveragePool", ["f"], ["e"], name="pool"),
    ]
    model = network(58, middle, image=image, w3=array(58, 12, 1))
    graph, notes = filled(model)
    assert not notes
    assert_same_outputs(model, graph, array(*image))


def test_a_map_of_one_channel_is_not_filled() -> None:
    middle = [node("Conv", ["d", "w3"], ["v"], name="map"), node("Mul", ["d", "v"], ["e"], name="attend")]
    model = network(58, middle, w3=array(1, 58, 1, 1))
    graph, notes = filled(model)
    assert not notes
    assert_same_outputs(model, graph, X)


def test_nothing_is_filled_where_it_saves_little() -> None:
    small = network(58)
    for size, axis in ((6, 2), (6, 3)):
        small.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    del small.graph.output[0].type.tensor_type.shape.dim[:]
    assert not filled(small)[1]


def test_layers_that_run_in_float_even_if_filled_stay() -> None:
    work = Model(gs.import_onnx(network(17, image=(1, 12, 56, 56))), CPU)
    normalise(work.graph)
    report = IntegerForms().apply(work, Stats())
    assert "deep" in work.float_activations
    assert not report.notes
    assert linear_layers(work.graph)["deep"].groups == 17


def test_targets_without_times_stay_as_they_are() -> None:
    graph, notes = filled(network(58), dataclasses.replace(CPU, times=None))
    assert not notes
    assert linear_layers(graph)["deep"].groups == 58


def test_a_weight_that_two_layers_read_stays() -> None:
    middle = [
        node("Relu", ["d"], ["e"], name="relu"),
        node("Sigmoid", ["e"], ["s"], name="sigmoid"),
        node("Conv", ["s", "w2"], ["z"], name="twin"),
    ]
    model = network(58, middle, outputs=("y", "z"))
    graph, notes = filled(model)
    assert not notes
    assert_same_outputs(model, graph, X)
