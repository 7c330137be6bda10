"""Layers that are faster in float: which are chosen, alone and in chains, and how the file then reads."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from numpy.typing import NDArray

from converter import convert
from converter.targets.catalog import find_target
from passes.graph.integer_forms.integer_forms import IntegerForms
from passes.graph.integer_forms.slow_layers import slow_layers
from passes.graph.normalise.shapes import infer_shapes
from passes.ir.linear import linear_layers
from passes.ir.model import Model
from passes.ir.rules import Rules
from passes.numerics.error import sqnr_db
from passes.statistics import Stats
from tests.support.graphs import array, build, node
from tests.support.networks import optimized, run

CPU = find_target("cpu").rules
Layer = tuple[int, int, int, int]  # inputs, outputs, groups, kernel size


def chain(layers: Sequence[Layer], size: int, act: str = "Relu") -> onnx.ModelProto:
    """Make a network of convolutions ``c0``, ``c1``, ... with an activation behind each."""
    nodes, weights, source = [], {}, "x"
    for index, (inputs, outputs, groups, k) in enumerate(layers):
        weights[f"w{index}"] = array(outputs, inputs // groups, k, k) * (inputs // groups * k * k) ** -0.5
        attributes: dict[str, Any] = {"group": groups, "pads": [k // 2] * 4}
        result = "y" if index == len(layers) - 1 else f"a{index}"
        nodes.append(node("Conv", [source, f"w{index}"], [f"y{index}"], name=f"c{index}", **attributes))
        nodes.append(node(act, [f"y{index}"], [result], name=f"act{index}"))
        source = result
    return build(nodes, weights, ("n", layers[0][0], size, size))


def slow(model: onnx.ModelProto, rules: Rules = CPU) -> list[str]:
    graph = gs.import_onnx(model)
    return slow_layers(graph, rules, infer_shapes(graph), frozenset(linear_layers(graph)))


ENDS: tuple[Layer, Layer] = ((64, 64, 1, 1), (64, 64, 1, 1))


@pytest.mark.parametrize(
    ("middle", "in_float"),
    [
        ((64, 128, 64, 3), True),  # depthwise with multiplier 2
        ((64, 64, 32, 3), True),
        ((64, 64, 16, 3), True),
        ((64, 64, 2, 3), False),
        ((64, 64, 1, 3), False),
        ((64, 64, 64, 3), False),  # a depthwise layer alone is not worth two changes
    ],
)
def test_groups_of_few_channels(middle: Layer, in_float: bool) -> None:
    model = chain([ENDS[0], middle, (middle[1], 64, 1, 1)], 28)
    assert ("c1" in slow(model)) == in_float


def test_neighbours_are_chosen_together() -> None:
    """Each depthwise layer of 32 channels loses more by two changes than it wins. The whole chain wins."""
    block: list[Layer] = [(32, 32, 32, 3), (32, 32, 1, 1)]
    alone = chain([(32, 32, 1, 1), *block, (32, 64, 1, 3), (64, 64, 1, 3)], 48)
    assert slow(alone) == []
    together = chain([(32, 32, 1, 1), *block * 5, (32, 64, 1, 3), (64, 64, 1, 3)], 48, "HardSwish")
    chosen = slow(together, dataclasses.replace(CPU, compute=CPU.compute | {"HardSwish"}))
    assert {f"c{index}" for index in range(1, 10)} <= set(chosen)
    assert not {"c11", "c12"} & set(chosen)


def test_a_network_that_is_slower_on_integers_as_a_whole_stays_in_float() -> None:
    """Its convolutions are a little faster on integers, and its activations lose more. No part saves a quarter."""
    rules = dataclasses.replace(CPU, compute=CPU.compute | {"HardSwish"})
    blocks: list[Layer] = [(24, 96, 1, 1), (96, 96, 96, 3), (96, 24, 1, 1)] * 3
    assert slow(chain(blocks, 56, "HardSwish"), rules) == [f"c{index}" for index in range(9)]
    wide: list[Layer] = [(128, 128, 1, 3), (128, 128, 1, 3)]
    assert slow(chain(wide, 28, "HardSwish"), rules) == []


def test_small_differences_move_nothing() -> None:
    assert slow(chain([ENDS[0], (64, 64, 32, 3), ENDS[1]], 4)) == []


def test_a_target_without_times_moves_nothing() -> None:
    model = chain([ENDS[0], (64, 128, 64, 3), (128, 64, 1, 1)], 28)
    assert slow(model, dataclasses.replace(CPU, times=None)) == []
    assert slow(model, find_target("qnn").rules) == []


def test_hard_swish_between_floats_stays_whole() -> None:
    """In float, onnxruntime fuses it with the convolution."""
    block: list[Layer] = [(32, 32, 32, 3), (32, 32, 1, 1)]
    model = Model(gs.import_onnx(chain([*block * 5, (32, 64, 1, 3), (64, 64, 1, 3)], 48, "HardSwish")), CPU)
    report = IntegerForms().apply(model, Stats())
    ops = {each.name: each.op for each in model.graph.nodes}
    assert ops["act1"] == "HardSwish"
    assert ops["act10"] == "Mul"
    assert (
        report.changed["c1"].what
        == model.float_activations["c1"]
        == "float activations, which are faster for this layer"
    )
    assert "c11" not in model.float_activations


def converted(model: onnx.ModelProto, x: NDArray[np.float32]) -> onnx.ModelProto:
    result = convert(model, x)
    assert sqnr_db(run(model, x[:4])[0], run(result.model, x[:4])[0]) > 30
    return result.model


def test_the_file_has_codes_of_the_weight_and_a_float_convolution(tmp_path: Path) -> None:
    quantized = converted(chain([ENDS[0], (64, 128, 64, 3), (128, 64, 1, 1)], 28), array(32, 64, 28, 28))
    stored = {tensor.name: tensor.data_type for tensor in quantized.graph.initializer}
    assert stored["w1_int8"] == onnx.TensorProto.INT8
    operators = optimized(quantized, tmp_path)
    assert operators["Conv"] >= 1
    assert operators["QLinearConv"] >= 1


def filters() -> onnx.ModelProto:
    """A filter bank on a waveform and on its low-pass filtered half: the filter of one channel is faster in float."""
    nodes = [
        node("Conv", ["x", "low"], ["half"], name="lowpass", strides=[1, 2], pads=[0, 127, 0, 127]),
        node("Conv", ["half", "low"], ["quarter"], name="second", strides=[1, 2], pads=[0, 127, 0, 127]),
        node("Conv", ["half", "bank"], ["a"], name="bank", strides=[1, 4]),
        node("Relu", ["a"], ["b"], name="relu"),
        node("Conv", ["b", "mix"], ["y"], name="mix"),
        node("Conv", ["quarter", "bank"], ["z"], name="last", strides=[1, 4]),
    ]
    weights = {"low": array(1, 1, 1, 256) / 16, "bank": array(64, 1, 1, 64) / 8, "mix": array(32, 64, 1, 3) / 14}
    return build(nodes, weights, ("n", 1, 1, 16384), outputs=("y", "z"))


def test_a_float_layer_reads_what_a_float_layer_writes_unrounded() -> None:
    quantized = converted(filters(), array(32, 1, 1, 16384))
    nodes = {each.name: each for each in quantized.graph.node}
    assert nodes["lowpass"].input[0] == "x"
    assert nodes["second"].input[0] == "half"
    assert nodes["bank"].input[0] == "half_rounded_dequantized"


def test_a_float_layer_of_one_channel_between_integers_stays_in_float(tmp_path: Path) -> None:
    """A single channel has no scales of its own, and onnxruntime would round the weight to one scale."""
    nodes = [
        node("Conv", ["x", "a"], ["p"], name="first"),
        node("Conv", ["p", "b"], ["q"], name="kept"),
        node("Conv", ["q", "c"], ["y"], name="last"),
    ]
    weights = {"a": array(1, 4, 1, 1), "b": array(4, 1, 3, 3), "c": array(4, 4, 1, 1)}
    model, x = build(nodes, weights, ("n", 4, 8, 8)), array(32, 4, 8, 8)
    quantized = convert(model, x, exclude=["kept"]).model
    operators = optimized(quantized, tmp_path)
    assert (operators["QLinearConv"], operators["Conv"]) == (2, 1)


@pytest.mark.parametrize(("length", "in_float"), [("time", True), (16000, True), (200, False)])
def test_a_signal_of_unknown_length_is_long(length: int | str, in_float: bool) -> None:
    """A filter of one channel, as resamplers have, is slower on integers, if the signal has any length."""
    filtered = node("Conv", ["x", "w"], ["y"], name="filter", pads=[0, 19, 0, 22], strides=[1, 3])
    assert slow(build([filtered], {"w": array(1, 1, 1, 41)}, ("n", 1, 1, length))) == ["filter"] * in_float
