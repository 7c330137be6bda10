"""Channel shuffles become an order of channels in the weights around them, and the network computes the same."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto

from converter import convert
from converter.targets.catalog import find_target
from passes.graph.integer_forms.channel_routes import route_channels
from passes.graph.normalise.normalise import normalise
from passes.graph.normalise.shapes import infer_shapes
from passes.ir.rules import Rules
from passes.numerics.error import sqnr_db
from tests.support.graphs import array, assert_same_outputs, build, node, ops, run
from tests.support.networks import optimized

CPU = find_target("cpu").rules


class Network:
    """A network that is built node by node, on images [1, 8, size, size]."""

    def __init__(self, size: int = 6) -> None:
        self.size, self.count = size, 0
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.channels = {"x": 8}

    def add(self, op: str, inputs: list[str], channels: list[int], **attributes: Any) -> list[str]:
        self.count += 1
        outputs = [f"t{self.count}_{index}" for index in range(len(channels))]
        self.channels |= dict(zip(outputs, channels, strict=True))
        self.nodes.append(node(op, inputs, outputs, name=f"n{self.count}", **attributes))
        return outputs

    def constant(self, values: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = values
        return name

    def conv(self, source: str, outputs: int, group: int = 1, kernel: int = 1, bias: bool = True) -> str:
        seed = len(self.constants)
        weight = self.constant(array(outputs, self.channels[source] // group, kernel, kernel, seed=seed))
        more = [self.constant(array(outputs, seed=seed))] if bias else []
        return self.add("Conv", [source, weight, *more], [outputs], group=group, pads=[kernel // 2] * 4)[0]

    def unary(self, op: str, source: str, **attributes: Any) -> str:
        return self.add(op, [source], [self.channels[source]], **attributes)[0]

    def concat(self, *sources: str) -> str:
        return self.add("Concat", list(sources), [sum(self.channels[each] for each in sources)], axis=1)[0]

    def shuffle(self, source: str, groups: int, batch: int = 1) -> str:
        channels = self.channels[source]
        blocks = np.array([batch, groups, channels // groups, self.size, self.size])
        view = self.add("Reshape", [source, self.constant(blocks)], [channels])
        turned = self.add("Transpose", view, [channels], perm=[0, 2, 1, 3, 4])
        whole = np.array([batch, channels, self.size, self.size])
        return self.add("Reshape", [*turned, self.constant(whole)], [channels])[0]

    def split(self, source: str, *sizes: int) -> list[str]:
        return self.add("Split", [source, self.constant(np.array(sizes))], list(sizes), axis=1)

    def unit(self, source: str, first: int, groups: int, op: str = "LeakyRelu") -> str:
        """A unit of ShuffleNetV2: part of the channels passes, the others are convolved, and all are shuffled."""
        passed, read = self.split(source, first, self.channels[source] - first)
        wide = self.unary(op, self.conv(read, 10))
        deep = self.conv(wide, 10, group=10, kernel=3)
        made = self.unary(op, self.conv(deep, self.channels[source] - first, bias=False))
        return self.shuffle(self.concat(passed, made), groups)

    def model(self, *outputs: str, batch: int | str = 1) -> onnx.ModelProto:
        self.nodes.append(node("Identity", [outputs[0]], ["y"], name="end"))
        shape = (batch, 8, self.size, self.size)
        return build(self.nodes, self.constants, shape, outputs=("y", *outputs[1:]))


def routed(model: onnx.ModelProto, rules: Rules = CPU) -> tuple[gs.Graph, list[str]]:
    graph = gs.import_onnx(model)
    normalise(graph)
    return graph, route_channels(graph, rules, infer_shapes(graph))


def stage(units: int, channels: int, first: int, groups: int, *, batch: int | str = 1) -> onnx.ModelProto:
    net = Network()
    halves = net.conv("x", first), net.unary("Relu", net.conv("x", channels - first))
    shuffled = net.shuffle(net.concat(*halves), groups)
    for _ in range(units):
        shuffled = net.unit(shuffled, first, groups)
    deep = net.conv(shuffled, channels, group=channels, kernel=3)
    ends = net.conv(net.unary("Relu", deep), 6), net.conv(net.unary("MaxPool", shuffled, kernel_shape=[1, 1]), 6)
    return net.model(net.concat(*ends), batch=batch)


@pytest.mark.parametrize(
    ("units", "channels", "first", "groups"),
    [(0, 12, 6, 2), (1, 12, 6, 2), (3, 20, 10, 2), (2, 18, 9, 3), (2, 24, 7, 4), (4, 22, 5, 11), (6, 30, 16, 2)],
)
def test_stages_compute_the_same_without_shuffles(units: int, channels: int, first: int, groups: int) -> None:
    model = stage(units, channels, first, groups)
    graph, notes = routed(model)
    assert len(notes) == 1
    assert not {"Transpose", "Reshape"} & set(ops(graph))
    assert_same_outputs(model, graph, array(1, 8, 6, 6))


def test_what_a_depthwise_layer_reads_has_whole_blocks() -> None:
    graph, _ = routed(stage(3, 20, 10, 2))
    groups = [node.attrs["group"] for node in graph.nodes if node.op == "Conv" and node.attrs["group"] > 1]
    assert groups == [10, 10, 10, 32]  # inside of the units, and behind the last


def test_a_batch_of_any_size() -> None:
    net = Network()
    net.size = 6
    shuffled = net.shuffle(net.concat(net.conv("x", 4), net.conv("x", 4)), 2, batch=-1)
    model = net.model(net.conv(shuffled, 3), batch="n")
    graph, notes = routed(model)
    assert notes
    assert_same_outputs(model, graph, array(5, 8, 6, 6))


def test_a_source_that_a_convolution_reads_too() -> None:
    net = Network()
    one, two = net.conv("x", 6), net.conv("x", 6)
    shuffled = net.shuffle(net.concat(one, two), 3)
    model = net.model(net.concat(net.conv(shuffled, 5), net.conv(one, 5)))
    graph, notes = routed(model)
    assert notes
    assert_same_outputs(model, graph, array(1, 8, 6, 6))


def test_the_order_of_a_tensor_that_no_convolution_writes() -> None:
    net = Network()
    model = net.model(net.conv(net.shuffle(net.concat("x", net.conv("x", 4)), 3), 5))
    graph, notes = routed(model)
    assert notes
    assert ops(graph).count("Conv") == 2
    assert_same_outputs(model, graph, array(1, 8, 6, 6))


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32])
def test_the_parts_of_a_split_have_the_type_of_the_source(dtype: int) -> None:
    net = Network()
    cast = net.unary("Cast", net.conv("x", 4), to=dtype)
    parts = net.split(net.shuffle(cast, 2), 2, 2)  # channels 0 and 2, and 1 and 3
    floats = [net.unary("Cast", part, to=TensorProto.FLOAT) for part in parts]
    model = net.model(net.add("Sub", floats, [2])[0])
    for graph, notes in (routed(model), routed(onnx.shape_inference.infer_shapes(model))):
        assert notes
        assert "Split" in ops(graph)
        assert_same_outputs(model, graph, array(1, 8, 6, 6))


@pytest.mark.parametrize(("channels", "cut"), [(16, True), (20, False)])
def test_a_source_is_cut_into_few_parts(channels: int, cut: bool) -> None:
    """A convolution with groups keeps its order. Readers of every second channel would need single channels of it."""
    net = Network()
    shuffled = net.shuffle(net.conv("x", channels, group=2), channels // 2)
    halves = net.split(shuffled, channels // 2, channels // 2)
    model = net.model(net.add("Sub", [net.conv(half, 5) for half in halves], [5])[0])
    graph, notes = routed(model)
    assert bool(notes) == cut
    assert [len(node.outputs) for node in graph.nodes if node.op == "Split"] == [channels if cut else 2]
    assert_same_outputs(model, graph, array(1, 8, 6, 6))


def refused(kind: str) -> onnx.ModelProto:
    net = Network()
    one, two = net.conv("x", 6), net.conv("x", 6)
    shuffled = net.shuffle(net.concat(one, two), 2)
    if kind == "graph output":
        return net.model(net.conv(shuffled, 3), shuffled)
    if kind == "source is an output":
        return net.model(net.conv(shuffled, 3), one)
    if kind == "addition":
        return net.model(net.conv(net.add("Add", [shuffled, net.concat(one, two)], [12])[0], 3))
    if kind == "groups":
        return net.model(net.conv(shuffled, 6, group=3))
    if kind == "softmax":
        return net.model(net.conv(net.unary("Softmax", shuffled, axis=1), 3))
    if kind == "slopes by channel":
        slopes = net.constant(array(12, 1, 1))
        return net.model(net.conv(net.add("PRelu", [shuffled, slopes], [12])[0], 3))
    if kind == "unread channels":
        return net.model(net.conv(net.split(shuffled, 5, 7)[0], 3))
    if kind == "shared weight":
        made = net.conv(shuffled, 3)
        shared = net.nodes[-1].input[1:]
        again = net.add("Conv", [net.concat(one, two), *shared], [3])
        return net.model(net.concat(made, *again))
    return net.model(net.conv(net.concat(one, two), 3))  # nothing is shuffled


@pytest.mark.parametrize(
    "kind",
    [
        *("graph output", "source is an output", "addition", "groups", "softmax", "slopes by channel"),
        *("unread channels", "shared weight", "no shuffle"),
    ],
)
def test_others_stay(kind: str) -> None:
    model = refused(kind)
    graph, notes = routed(model)
    assert not notes
    assert_same_outputs(model, graph, array(1, 8, 6, 6))


def test_targets_without_times_stay_as_they_are() -> None:
    graph, notes = routed(stage(1, 12, 6, 2), dataclasses.replace(CPU, times=None))
    assert not notes
    assert "Transpose" in ops(graph)


def test_the_file_has_channels_last_all_the_way(tmp_path: Path) -> None:
    model, images = stage(3, 20, 10, 2), array(8, 8, 6, 6)
    file = convert(model, images, recipe="int8").model
    operators = optimized(file, tmp_path)
    assert operators["Transpose"] < 4  # at the ends
    assert operators["Reshape"] == 0
    outputs = [np.concatenate([run(each, images[i : i + 1])[0] for i in range(8)]) for each in (model, file)]
    assert sqnr_db(*outputs) > 25
