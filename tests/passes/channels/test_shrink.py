"""Removal of channels through every operator: onnxruntime computes the same before and after.

The layers that read the removed channels multiply them by zero before too, so nothing may change. Tolerance: the sums
are those of fewer terms, which onnxruntime may add up in another order. A wrong channel changes the output by as much
as the output itself.
"""

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.zoo import ZOO, feeds_of
from passes.channels.channel_groups import ChannelGroup, ChannelGroups, channel_groups, input_channels_of
from passes.channels.shrink import shrink
from passes.graph.fold_batchnorm import FoldBatchnorm
from passes.ir.model import Model
from passes.ir.onnx_graph import export_graph, import_graph
from passes.scale_migration.scale_ties import Indices
from passes.statistics import Stats
from tests.support.channel_paths import PASSED, Constants, between, conv, drawn_network, ints, norm, parameters
from tests.support.graphs import array, assert_same_outputs, build, node, run
from tests.support.integer_rules import RULES
from tests.support.networks import prepared, resnet

TOLERANCE = 1e-5


def of(proto: onnx.ModelProto) -> tuple[Model, ChannelGroups]:
    model = Model(gs.import_onnx(proto), RULES)
    return model, channel_groups(model)


def drawn(groups: ChannelGroups, seed: int) -> list[tuple[ChannelGroup, Indices]]:
    """Draw channels of every group. Of every tensor, at least one stays."""
    rng = np.random.default_rng(seed)
    return [
        (group, group.removable(rng.permutation(group.size)[: rng.integers(1, group.size)])) for group in groups.groups
    ]


def unread(model: Model, removed: list[tuple[ChannelGroup, Indices]]) -> onnx.ModelProto:
    """Give the layers that read removed channels a weight of zero for them. Return the model."""
    layers = model.layers()
    for group, chosen in removed:
        for name in group.readers:
            gone = np.isin(group.consumers[name], chosen)
            weight = model.weight(layers[name])
            weight = np.where(input_channels_of(layers[name], gone)[:, None], np.float32(0), weight)
            model.write(layers[name], weight, None)
    return export_graph(model.graph)


def assert_exact(
    model: Model, removed: list[tuple[ChannelGroup, Indices]], x: Any, tolerance: float = TOLERANCE
) -> None:
    """Shrink, and compare with the model whose removed channels are read by nobody. All groups get smaller."""
    before = unread(model, removed)
    shrink(model, removed)
    assert_same_outputs(before, model.graph, x, tolerance)
    layers = model.layers()
    for group, chosen in removed:
        for members, side in ((group.producers, "outputs"), (group.consumers, "inputs")):
            for name, channels in members.items():
                assert getattr(layers[name], side) == len(channels) - np.isin(channels, chosen).sum()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("nodes", "constants", "last"), PASSED.values(), ids=PASSED.keys())
def test_channels_go_through(nodes: list[onnx.NodeProto], constants: Constants, last: int, seed: int) -> None:
    proto = between(nodes, constants, last=last)
    model, groups = of(proto)
    steps = [name for name, value in constants.items() if name in {"steps", "two"} and np.abs(value).max() > 1]
    if steps:  # every second channel is no range any more, once some are gone
        assert "takes channels at a distance" in groups.outputs["conv1"]
        return
    assert "conv1" not in groups.outputs
    assert "conv2" not in groups.inputs
    assert_exact(model, drawn(groups, seed), array(2, 3, 8, 8, seed=9))


MORE = {
    # nodes from h to k, constants, channels of k
    **{
        op.lower(): ([node(op, ["h"], ["k"], name="op")], {}, 6)
        for op in ("Sigmoid", "Tanh", "HardSwish", "Elu", "Softplus", "Erf")
    },
    "clip_between_bounds": (
        [node("Clip", ["h", "low", "high"], ["k"], name="op")], {"low": np.float32(-1), "high": np.float32(2)}, 6,
    ),
    "gate": (
        [node("Sigmoid", ["h"], ["gate"], name="sigmoid"), node("Mul", ["h", "gate"], ["k"], name="op")], {}, 6,
    ),
    "product_of_two_layers": (
        [conv("c", "h", "c", pads=[1] * 4), node("Mul", ["c", "h"], ["k"], name="op")], parameters("c", 6, 6, 3, 3), 6,
    ),
    "gate_of_all_channels": (
        [conv("c", "h", "c"), node("Sigmoid", ["c"], ["gate"], name="sigmoid"), node("Mul", ["h", "gate"], ["k"],
         name="op")], parameters("c", 1, 6, 1, 1), 6,
    ),
    "resize_to_sizes": (
        [node("Resize", ["h", "", "", "sizes"], ["k"], name="op")], {"sizes": ints(2, 6, 12, 16)}, 6,
    ),
    "resize_some_axes": (
        [node("Resize", ["h", "", "", "sizes"], ["k"], name="op", axes=[3, 1])], {"sizes": ints(12, 6)}, 6,
    ),
    "slice_a_range": (
        [node("Slice", ["h", "start", "end", "axis"], ["k"], name="op")],
        {"start": ints(-5), "end": ints(2**40), "axis": ints(1)}, 5,
    ),
    "shape_of_rows": (
        [node("Shape", ["h"], ["s"], name="shape", start=2), node("Relu", ["h"], ["k"], name="op")], {}, 6,
    ),
    "power": ([node("Abs", ["h"], ["a"], name="abs"), node("Pow", ["a", "p"], ["k"], name="op")],
              {"p": np.abs(array(6, 1, 1)) + 1}, 6),
}  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("nodes", "constants", "last"), MORE.values(), ids=MORE.keys())
def test_channels_go_where_no_scale_passes(
    nodes: list[onnx.NodeProto], constants: Constants, last: int, seed: int
) -> None:
    model, groups = of(between(nodes, constants, last=last))
    assert "conv1" not in groups.outputs
    assert "conv2" not in groups.inputs
    assert_exact(model, drawn(groups, seed), array(2, 3, 8, 8, seed=9))


STAYING = {
    # nodes from h to k, constants, channels of k, reason
    "softmax": ([node("Softmax", ["h"], ["k"], name="op", axis=1)], {}, 6, "op (Softmax) does not pass"),
    "reshape": (
        [node("Reshape", ["h", "shape"], ["k"], name="op")], {"shape": ints(2, 6, 8, 8)}, 6, "op (Reshape) does not",
    ),
    "number_of_channels": (
        [node("Shape", ["h"], ["s"], name="shape"), node("Reshape", ["h", "s"], ["k"], name="op")], {}, 6,
        "shape (Shape) reads the number of channels",
    ),
    "mean_over_channels": (
        [node("ReduceMean", ["h", "axes"], ["m"], name="mean"), node("Sub", ["h", "m"], ["k"], name="op")],
        {"axes": ints(1)}, 6, "mean (ReduceMean) does not pass",
    ),
    "slice_every_second": (
        [node("Slice", ["h", "start", "end", "axis", "step"], ["k"], name="op")],
        {"start": ints(0), "end": ints(6), "axis": ints(1), "step": ints(2)}, 3, "op (Slice) takes channels at a dist",
    ),
    "clip_by_an_activation": (
        [node("ReduceMax", ["x"], ["m"], name="max", keepdims=0), node("Clip", ["h", "", "m"], ["k"], name="op")],
        {}, 6, "op (Clip) has bounds that are not constants",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "constants", "last", "reason"), STAYING.values(), ids=STAYING.keys())
def test_channels_stay_with_a_reason(nodes: list[onnx.NodeProto], constants: Constants, last: int, reason: str) -> None:
    _, groups = of(between(nodes, constants, last=last))
    assert not groups.groups
    assert reason in groups.outputs["conv1"]


def test_outputs_of_the_model_stay() -> None:
    proto = between([node("Relu", ["h"], ["k"], name="op")], {})
    proto.graph.output.append(onnx.helper.make_tensor_value_info("h", 1, ("N", 6, 8, 8)))
    _, groups = of(proto)
    assert groups.outputs == {"conv1": "h is an output of the model", "conv2": "y is an output of the model"}


def test_a_weight_that_layers_share_stays() -> None:
    nodes = [
        node("Relu", ["h"], ["r"], name="relu"),
        node("Conv", ["r", "s.w"], ["s1"], name="first", pads=[1] * 4),
        node("Conv", ["s1", "s.w"], ["k"], name="second", pads=[1] * 4),
    ]
    _, groups = of(between(nodes, {"s.w": array(6, 6, 3, 3)}))
    assert not groups.groups
    assert "it shares s.w with another node" in groups.outputs["conv1"]


def test_groups_of_a_convolution_stay_equal() -> None:
    """The same position of both groups goes, so 6 channels are 3 that can be removed."""
    model, groups = of(between([conv("g", "h", "k", group=2, pads=[1] * 4)], parameters("g", 4, 3, 3, 3), last=4))
    first, second = groups.groups
    np.testing.assert_array_equal(first.producers["conv1"], [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(second.consumers["conv2"], [0, 1, 0, 1])
    assert_exact(model, [(first, np.array([1])), (second, np.array([0]))], array(2, 3, 8, 8))
    assert model.layers()["g"].weight_shape == (2, 2, 3, 3)
    assert model.layers()["g"].groups == 2


def test_padded_channels_of_a_shortcut_go_too() -> None:
    """Option A of CIFAR ResNets: a shortcut pads with zero channels, which have no producer."""
    nodes = [
        node("Pad", ["h", "pads"], ["p"], name="pad"),
        conv("c", "h", "c", pads=[1] * 4),
        node("Add", ["c", "p"], ["k"], name="op"),
    ]
    constants = {"pads": ints(0, 3, 0, 0, 0, 3, 0, 0)} | parameters("c", 12, 6, 3, 3)
    model, groups = of(between(nodes, constants, last=12))
    assert [group.size for group in groups.groups] == [12]
    assert_exact(model, [(groups.groups[0], np.array([0, 4, 5, 11]))], array(2, 3, 8, 8))


def test_no_channel_left_is_refused() -> None:
    model, groups = of(between([node("Relu", ["h"], ["k"], name="op")], {}))
    with pytest.raises(ValueError, match="h would have none of its 6 channels left"):
        shrink(model, [(groups.groups[0], np.arange(6))])


HEADS = {
    "gemm": (node("Gemm", ["f", "w", "b"], ["y"], name="fc"), (24, 5)),
    "gemm_transposed": (node("Gemm", ["f", "w", "b"], ["y"], name="fc", transB=1), (5, 24)),
    "matmul": (node("MatMul", ["f", "w"], ["y"], name="fc"), (24, 5)),
}


@pytest.mark.parametrize(("head", "shape"), HEADS.values(), ids=HEADS.keys())
def test_a_flatten_loses_every_position_of_the_channel(head: onnx.NodeProto, shape: tuple[int, int]) -> None:
    nodes = [
        node("Conv", ["x", "c.w", "c.b"], ["h"], name="c"),
        node("AveragePool", ["h"], ["p"], name="pool", kernel_shape=[3, 3], strides=[3, 3]),
        node("Flatten", ["p"], ["f"], name="flatten"),
        head,
    ]
    constants = {"c.w": array(6, 3, 3, 3), "c.b": array(6), "w": array(*shape), "b": array(1, 5)}
    constants = {name: value for name, value in constants.items() if name != "b" or len(head.input) == 3}
    model, groups = of(build(nodes, constants, ("N", 3, 8, 8)))
    assert [group.size for group in groups.groups] == [6]
    assert_exact(model, drawn(groups, 0), array(2, 3, 8, 8))
    assert 24 not in model.layers()["fc"].weight_shape


@settings(max_examples=40, deadline=None)
@given(proto=drawn_network(), seed=st.integers(0, 2**32 - 1))
def test_random_networks_compute_the_same(proto: onnx.ModelProto, seed: int) -> None:
    model, groups = of(proto)
    assert_exact(model, drawn(groups, seed), array(2, 3, 6, 6, seed=seed), 5e-5)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_residual_network_with_one_of_everything_computes_the_same(seed: int) -> None:
    model = prepared(resnet())
    groups = channel_groups(model)
    assert groups.groups
    assert_exact(model, drawn(groups, seed), array(2, 3, 12, 12))


@pytest.mark.parametrize("name", ZOO)
def test_every_graph_of_the_zoo_computes_the_same(name: str) -> None:
    proto = ZOO[name]()
    model = prepared(proto)
    FoldBatchnorm().apply(model, Stats())
    groups = channel_groups(model)
    covered = {*groups.outputs, *groups.by_name()} | {*groups.inputs}
    assert covered >= set(model.layers())
    assert all([*groups.outputs.values(), *groups.inputs.values()])  # every layer that stays has a reason
    assert_exact(model, drawn(groups, 0), feeds_of(proto, 1), 5e-5)


@pytest.mark.parametrize("name", ZOO)
def test_channels_that_are_zero_are_removed_exactly(name: str) -> None:
    """Producers write zero, and a norm behind them too. No layer is told: its weights for zeros do not matter."""
    proto = ZOO[name]()
    model = prepared(proto)
    groups = channel_groups(model)
    removed = drawn(groups, 1)
    layers = model.layers()
    for group, chosen in removed:
        for producer, channels in group.producers.items():
            rows = np.isin(channels, chosen).reshape(layers[producer].matrix_shape[:2])
            bias = model.bias(layers[producer])
            weight = np.where(rows[:, :, None], np.float32(0), model.weight(layers[producer]))
            model.write(layers[producer], weight, None if bias is None else np.where(rows, np.float32(0), bias))
        for each in model.graph.nodes:
            if each.op == "Add" and each.outputs[0].name in group.tensors:  # a bias behind a MatMul
                wires = group.tensors[str(each.outputs[0].name)]
                for index, tensor in enumerate(each.inputs):
                    if isinstance(tensor, gs.Constant) and tensor.shape[-1:] == (len(wires.ids),):
                        values = np.where(np.isin(wires.ids, chosen), np.float32(0), tensor.values)
                        each.inputs[index] = gs.Constant(f"{each.name}.zeroed", values)
    if any(each.op in {"Sigmoid", "Softplus"} for each in model.graph.nodes):
        return  # sigmoid(0) is not zero
    before = export_graph(model.graph)
    shrink(model, removed)
    assert_same_outputs(before, model.graph, feeds_of(proto, 1), 5e-5)


def test_a_batch_normalization_shrinks() -> None:
    nodes, constants, last = PASSED["batch_norm_relu"]
    model, groups = of(between(nodes, constants, last=last))
    shrink(model, [(groups.groups[0], np.array([1, 2]))])
    norm_node = next(each for each in model.graph.nodes if each.op == "BatchNormalization")
    assert [tensor.shape for tensor in norm_node.inputs[1:]] == [(4,)] * 4
    assert norm(6)["bn.scale"].shape == (6,)


def test_the_graph_that_was_copied_stays() -> None:
    proto = between([node("Relu", ["h"], ["k"], name="op")], {})
    graph = import_graph(proto)
    model = Model(graph.copy(), RULES)
    shrink(model, [(channel_groups(model).groups[0], np.array([0]))])
    x = array(1, 3, 8, 8)
    assert np.array_equal(run(export_graph(graph), x)[0], run(proto, x)[0])
