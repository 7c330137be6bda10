"""Rescaling through every operator that allows it: onnxruntime computes the same before and after.

Tolerance: weights are rounded to float32 once more. 2e-5 of max|y| is a few roundings of a sum of about 50 products. A
scale that is missing or applied twice changes the output by as much as the scale itself.
"""

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.ir.model import Model
from passes.scale_migration.rescale import rescale
from passes.scale_migration.scale_groups import ScaleGroups, scale_groups
from tests.support.graphs import array, assert_same_outputs, build, node
from tests.support.integer_rules import RULES
from tests.support.networks import prepared, resnet

Constants = dict[str, np.ndarray]
TOLERANCE = 2e-5
BN = ("scale", "bias", "mean", "var")


def rescaled(proto: onnx.ModelProto, seed: int = 0, spread: float = 2.0) -> tuple[Model, ScaleGroups]:
    """Rescale every group of the model by random factors of about exp(± 2 spread)."""
    model = Model(gs.import_onnx(proto), RULES)
    analysis = scale_groups(model)
    rng = np.random.default_rng(seed)
    for group in analysis.groups:
        rescale(model, group, np.exp(rng.uniform(-spread, spread, group.size)))
    return model, analysis


def between(nodes: list[onnx.NodeProto], constants: Constants, *, last: int = 6, shape: int = 6) -> onnx.ModelProto:
    """Make conv1 [n, 6, 8, 8] -> h -> nodes -> k -> conv2 over ``last`` channels."""
    constants = {
        "conv1.w": array(shape, 3, 3, 3) / 5,
        "conv1.b": array(shape, seed=1),
        "conv2.w": array(4, last, 1, 1),
        "conv2.b": array(4),
        **constants,
    }
    first = node("Conv", ["x", "conv1.w", "conv1.b"], ["h"], name="conv1", pads=[1] * 4)
    second = node("Conv", ["k", "conv2.w", "conv2.b"], ["y"], name="conv2")
    return build([first, *nodes, second], constants, ("N", 3, 8, 8), opset=18)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def conv(name: str, source: str, result: str, **attributes: Any) -> onnx.NodeProto:
    return node("Conv", [source, f"{name}.w", f"{name}.b"], [result], name=name, **attributes)


def parameters(name: str, *shape: int) -> Constants:
    return {f"{name}.w": array(*shape) / 3, f"{name}.b": array(shape[0], seed=3)}


def norm(channels: int) -> Constants:
    values = array(4, channels, seed=5)
    values[3] = np.abs(values[3]) + 0.3
    return {f"bn.{name}": value for name, value in zip(BN, values, strict=True)}


PRELU = np.abs(array(6, 1, 1)) - 0.3
PASSED = {
    # nodes from h to k, constants, channels of k
    "relu": ([node("Relu", ["h"], ["k"], name="op")], {}, 6),
    "leaky_relu": ([node("LeakyRelu", ["h"], ["k"], name="op", alpha=0.2)], {}, 6),
    "prelu": ([node("PRelu", ["h", "slope"], ["k"], name="op")], {"slope": PRELU}, 6),
    "clip_at_zero": ([node("Clip", ["h", "zero"], ["k"], name="op")], {"zero": np.float32(0)}, 6),
    "abs_neg": ([node("Abs", ["h"], ["a"], name="abs"), node("Neg", ["a"], ["k"], name="neg")], {}, 6),
    "max_pool": ([node("MaxPool", ["h"], ["k"], name="op", kernel_shape=[2, 2], pads=[0, 1, 1, 0])], {}, 6),
    "average_pool": ([node("AveragePool", ["h"], ["k"], name="op", kernel_shape=[3, 3], strides=[2, 2])], {}, 6),
    "global_average_pool": ([node("GlobalAveragePool", ["h"], ["k"], name="op")], {}, 6),
    "global_max_pool": ([node("GlobalMaxPool", ["h"], ["k"], name="op")], {}, 6),
    "zero_pad": ([node("Pad", ["h", "pads"], ["k"], name="op")], {"pads": ints(0, 0, 1, 2, 0, 0, 0, 1)}, 6),
    "reflect_pad": (
        [node("Pad", ["h", "pads"], ["k"], name="op", mode="reflect")], {"pads": ints(0, 0, 1, 2, 0, 0, 0, 1)}, 6,
    ),
    "pad_channels": ([node("Pad", ["h", "pads"], ["k"], name="op")], {"pads": ints(0, 2, 0, 0, 0, 3, 0, 0)}, 11),
    "pad_crops_channels": ([node("Pad", ["h", "pads"], ["k"], name="op")], {"pads": ints(0, -2, 0, 0, 0, 1, 0, 0)}, 5),
    "pad_axes": (
        [node("Pad", ["h", "pads", "", "axes"], ["k"], name="op")], {"pads": ints(1, 1, 0, 2), "axes": ints(-1, 1)}, 9,
    ),
    "resize_nearest": (
        [node("Resize", ["h", "", "scales"], ["k"], name="op")], {"scales": np.array([1, 1, 2, 2], np.float32)}, 6,
    ),
    "resize_linear": (
        [node("Resize", ["h", "", "scales"], ["k"], name="op", mode="linear")],
        {"scales": np.array([1, 1, 1.5, 2], np.float32)}, 6,
    ),
    "concat": (
        [node("Relu", ["h"], ["r"], name="relu"), node("Concat", ["r", "h"], ["k"], name="op", axis=1)], {}, 12,
    ),
    "concat_rows": ([node("Concat", ["h", "h"], ["k"], name="op", axis=-1)], {}, 6),
    "split": (
        [
            node("Split", ["h", "sizes"], ["a", "b"], name="split", axis=1),
            node("Concat", ["b", "a"], ["k"], name="op", axis=1),
        ],
        {"sizes": ints(2, 4)}, 6,
    ),
    "split_evenly": (
        [
            node("Split", ["h"], ["a", "b"], name="split", axis=1, num_outputs=2),
            node("Add", ["b", "a"], ["k"], name="op"),
        ],
        {}, 3,
    ),
    "split_rows": (
        [
            node("Split", ["h"], ["a", "b"], name="split", axis=2, num_outputs=2),
            node("Sub", ["b", "a"], ["k"], name="op"),
        ],
        {}, 6,
    ),
    "slice": (
        [node("Slice", ["h", "start", "end", "axes", "steps"], ["k"], name="op")],
        {"start": ints(-1, 1), "end": ints(-100, 7), "axes": ints(1, 2), "steps": ints(-2, 1)}, 3,
    ),
    "shuffled_by_slices": (
        [
            node("Slice", ["h", "zero", "end", "axis", "two"], ["a"], name="even"),
            node("Slice", ["h", "one", "end", "axis", "two"], ["b"], name="odd"),
            node("Concat", ["b", "a"], ["k"], name="op", axis=1),
        ],
        {"zero": ints(0), "one": ints(1), "two": ints(2), "end": ints(2**31), "axis": ints(-3)}, 6,
    ),
    "transposes": (
        [
            node("Transpose", ["h"], ["t"], name="there", perm=[0, 2, 3, 1]),
            node("Relu", ["t"], ["r"], name="relu"),
            node("Transpose", ["r"], ["k"], name="back", perm=[0, 3, 1, 2]),
        ],
        {}, 6,
    ),
    "batch_norm": (
        [node("BatchNormalization", ["h", *(f"bn.{name}" for name in BN)], ["k"], name="bn")], norm(6), 6,
    ),
    "batch_norm_relu": (
        [
            node("BatchNormalization", ["h", *(f"bn.{name}" for name in BN)], ["b"], name="bn"),
            node("Relu", ["b"], ["k"], name="relu"),
        ],
        norm(6), 6,
    ),
    "depthwise": ([conv("dw", "h", "k", group=6, pads=[1] * 4)], parameters("dw", 6, 1, 3, 3), 6),
    "depthwise_multiplied": ([conv("dw", "h", "k", group=6)], parameters("dw", 12, 1, 3, 3), 12),
    "grouped": ([conv("g", "h", "k", group=2, strides=[2, 1])], parameters("g", 4, 3, 3, 3), 4),
    "transposed": (
        [node("ConvTranspose", ["h", "t.w", "t.b"], ["k"], name="t", strides=[2, 2], group=2)],
        {"t.w": array(6, 4, 3, 2) / 3, "t.b": array(8)}, 8,
    ),
    "residual_add": (
        [conv("c", "h", "c", pads=[1] * 4), node("Add", ["c", "h"], ["k"], name="op")], parameters("c", 6, 6, 3, 3), 6,
    ),
    "add_constants": (
        [node("Add", ["h", "c"], ["a"], name="add"), node("Sub", ["d", "a"], ["k"], name="op")],
        {"c": array(6, 1, 1), "d": array(1, 1, 8, 8)}, 6,
    ),
    "relu6_of_each_channel": (
        [node("Relu", ["h"], ["r"], name="relu"), node("Min", ["r", "six"], ["k"], name="op")],
        {"six": np.float32(1)}, 6,
    ),
    "mul_constant": ([node("Mul", ["c", "h"], ["k"], name="op")], {"c": array(1, 6, 1, 1)}, 6),
    "div_constant": ([node("Div", ["h", "c"], ["k"], name="op")], {"c": np.float32(3)}, 6),
    "squeeze_and_excite": (
        [
            node("GlobalAveragePool", ["h"], ["p"], name="pool"),
            conv("c", "p", "c"),
            node("HardSigmoid", ["c"], ["gate"], name="sigmoid"),
            node("Mul", ["h", "gate"], ["k"], name="op"),
        ],
        parameters("c", 6, 6, 1, 1), 6,
    ),
}  # fmt: skip


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
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_random_networks_compute_the_same(data: st.DataObject, seed: int) -> None:
    """Draw layers, activations, pools and residual Adds in any order, and random scales."""
    rng = np.random.default_rng(seed)
    constants: Constants = {}
    nodes: list[onnx.NodeProto] = []
    known: list[tuple[str, int]] = [("x", 3)]  # tensors of one size, with their channels

    def layer(source: str, channels: int, outputs: int, groups: int) -> str:
        name = f"layer{len(nodes)}"
        weight = rng.standard_normal((outputs, channels // groups, 3, 3)) / np.sqrt(9 * channels / groups)
        constants[f"{name}.w"] = weight.astype(np.float32)
        constants[f"{name}.b"] = rng.standard_normal(outputs).astype(np.float32)
        nodes.append(conv(name, source, f"{name}.y", group=groups, pads=[1] * 4))
        return f"{name}.y"

    for _ in range(data.draw(st.integers(2, 8))):
        source, channels = data.draw(st.sampled_from(known))
        kind = data.draw(st.sampled_from(["conv", "depthwise", "Relu", "Sigmoid", "add", "concat", "MaxPool", "clip"]))
        name = f"{kind}{len(nodes)}"
        same = [tensor for tensor, count in known if count == channels]
        if kind in {"conv", "depthwise"}:
            outputs = channels if kind == "depthwise" else data.draw(st.sampled_from([3, 4, 6]))
            known.append((layer(source, channels, outputs, channels if kind == "depthwise" else 1), outputs))
        elif kind == "add":
            nodes.append(node("Add", [source, data.draw(st.sampled_from(same))], [name], name=name))
            known.append((name, channels))
        elif kind == "concat":
            other, count = data.draw(st.sampled_from(known))
            nodes.append(node("Concat", [source, other], [name], name=name, axis=1))
            known.append((name, channels + count))
        elif kind == "clip":
            constants |= {"low": np.array(0, np.float32), "high": np.array(1, np.float32)}
            nodes.append(node("Clip", [source, "low", "high"], [name], name=name))
            known.append((name, channels))
        else:
            attributes: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1] * 4} if kind == "MaxPool" else {}
            nodes.append(node(kind, [source], [name], name=name, **attributes))
            known.append((name, channels))
    result = layer(*known[-1], 5, 1)
    nodes[-1].output[0] = "y"
    assert result != "y"
    proto = build(nodes, constants, ("N", 3, 6, 6))
    model, _ = rescaled(proto, seed)
    assert_same_outputs(proto, model.graph, rng.standard_normal((2, 3, 6, 6)).astype(np.float32), 5e-5)


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
