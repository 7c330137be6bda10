"""Graphs in which channels pass from one layer to another through every operator, and graphs drawn at random."""

from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st

from tests.support.graphs import array, build, node

__all__ = ["BN", "PASSED", "Constants", "between", "conv", "drawn_network", "ints", "norm", "parameters"]

Constants = dict[str, np.ndarray]
BN = ("scale", "bias", "mean", "var")


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


@st.composite
def drawn_network(draw: st.DrawFn) -> onnx.ModelProto:
    """Draw layers, activations, pools and residual Adds in any order. The input is [n, 3, 6, 6]."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
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

    for _ in range(draw(st.integers(2, 8))):
        source, channels = draw(st.sampled_from(known))
        kind = draw(st.sampled_from(["conv", "depthwise", "Relu", "Sigmoid", "add", "concat", "MaxPool", "clip"]))
        name = f"{kind}{len(nodes)}"
        same = [tensor for tensor, count in known if count == channels]
        if kind in {"conv", "depthwise"}:
            outputs = channels if kind == "depthwise" else draw(st.sampled_from([3, 4, 6]))
            known.append((layer(source, channels, outputs, channels if kind == "depthwise" else 1), outputs))
        elif kind == "add":
            nodes.append(node("Add", [source, draw(st.sampled_from(same))], [name], name=name))
            known.append((name, channels))
        elif kind == "concat":
            other, count = draw(st.sampled_from(known))
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
    return build(nodes, constants, ("N", 3, 6, 6))
