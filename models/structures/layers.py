"""Graphs whose layers or operators are put together in unusual ways."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper

from models.structures.build import Array, F, between, ints, layer_weights, make, n

__all__ = [
    "decomposed_hard_swish",
    "generated",
    "linear_tokens",
    "lstm",
    "passed_on",
    "pyramid",
    "relu_then",
    "repeated_split",
    "scaled",
    "scatter",
    "unrolled",
    "zeros",
]


def decomposed_hard_swish(*shape: int) -> Callable[[], onnx.ModelProto]:
    """Build HardSwish as Add, Clip, Mul and Div, with constants of a shape."""

    def value(number: float) -> Array:
        return np.full(shape, number, np.float32)

    return between(
        n("Add", ["h0", "three"], ["p"]),
        n("Clip", ["p", "low", "high"], ["q"]),
        n("Mul", ["h0", "q"], ["r"]),
        n("Div", ["r", "six"], ["m"]),
        n("Conv", ["h", "k"], ["h0"], pads=[1] * 4),
        opset=11,
        k=layer_weights(8)["w1"],
        three=value(3),
        six=value(6),
        low=np.float32(0),
        high=np.float32(6),
    )


def scaled(op: str, number: float, *, output: bool) -> Callable[[], onnx.ModelProto]:
    """Build a product with a positive or negative scalar, read by a layer and perhaps an output too."""

    def build() -> onnx.ModelProto:
        nodes = [
            n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
            n("Relu", ["c"], ["h"]),
            n(op, ["h", "k"], ["m"]),
            n("Conv", ["m", "w1"], ["y"], name="last", pads=[1] * 4),
        ]
        return make(nodes, outputs=["y", "m"] if output else ["y"], k=np.float32(number))

    return build


def zeros(what: str) -> Callable[[], onnx.ModelProto]:
    """Build layers with weights of zero."""
    first, second = layer_weights()["w0"], layer_weights()["w1"]
    match what:
        case "kernel position":
            first[:, :, 0, 0], second[:, :, 0, 0] = 0, 0
        case "input channel":
            second[:, 2] = 0
        case "output channel":
            first[3] = 0
        case "layer":
            second[:] = 0
    nodes = [
        n("Conv", ["x", "first"], ["c"], name="first"),
        n("Conv", ["c", "second"], ["d"], name="second"),
        n("Add", ["d", "one"], ["e"]),
        n("Conv", ["e", "w2"], ["y"], name="last"),
    ]
    return lambda: make(nodes, first=first, second=second, one=np.ones((1, 8, 1, 1), np.float32))


def generated() -> onnx.ModelProto:
    """Build zeros that ConstantOfShape generates, which are larger than all weights."""
    nodes = [
        n("ConstantOfShape", ["shape"], ["zeros"]),
        n("MatMul", ["x", "m0"], ["a"], name="first"),
        n("Relu", ["a"], ["b"]),
        n("Concat", ["b", "zeros"], ["c"], axis=1),
        n("Slice", ["c", "from", "to", "axis"], ["d"]),
        n("MatMul", ["d", "m1"], ["y"], name="last"),
    ]
    inputs = [helper.make_tensor_value_info("x", F, [1, 32])]
    constants: dict[str, Any] = {"shape": ints(1, 100_000), "from": ints(0), "to": ints(32), "axis": ints(1)}
    return make(nodes, inputs, **constants)


def unrolled() -> onnx.ModelProto:
    """A recurrent cell of one weight, six times."""
    nodes, state = [], "x"
    for step in range(6):
        nodes += [
            n("Gemm", [state, "m0", "bias"], [f"a{step}"], name=f"step{step}", transB=1),
            n("Tanh", [f"a{step}"], [f"h{step}"]),
        ]
        state = f"h{step}"
    nodes.append(n("MatMul", [state, "m1"], ["y"], name="last"))
    inputs = [helper.make_tensor_value_info("x", F, ["n", 32])]
    return make(nodes, inputs, bias=0.1 * layer_weights(9)["m0"][0])


def pyramid() -> onnx.ModelProto:
    """A head that two resolutions share."""
    nodes = [
        n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
        n("Relu", ["c"], ["h"]),
        n("MaxPool", ["h"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    for level in ("h", "small"):
        nodes += [
            n("Conv", [level, "w1"], [f"{level}_c"], name=f"head_{level}", pads=[1] * 4),
            n("Relu", [f"{level}_c"], [f"{level}_r"]),
            n("Conv", [f"{level}_r", "w2"], [f"y_{level}"], name=f"scores_{level}"),
        ]
    return make(nodes, outputs=["y_h", "y_small"])


def passed_on() -> onnx.ModelProto:
    """Build outputs that are the input, as it is, flattened or transposed."""
    nodes = [
        n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
        n("Relu", ["c"], ["h"]),
        n("Conv", ["h", "w1"], ["y"], name="last", pads=[1] * 4),
        n("Identity", ["x"], ["same"]),
        n("Flatten", ["x"], ["flat"]),
        n("Transpose", ["x"], ["turned"], perm=[0, 2, 3, 1]),
    ]
    return make(nodes, outputs=["y", "same", "flat", "turned"])


def scatter() -> onnx.ModelProto:
    """An addition to a slice in place, as an exporter writes it."""
    at = np.stack(np.meshgrid([0], np.arange(4), indexing="ij"), -1).astype(np.int64)
    return between(
        n("Slice", ["h", "zero", "four", "axis"], ["part"]),
        n("Relu", ["part"], ["q"]),
        n("Add", ["q", "q"], ["twice"]),
        n("ScatterND", ["h", "at", "twice"], ["m"]),
        zero=ints(0),
        four=ints(4),
        axis=ints(1),
        at=at,
    )()


def repeated_split() -> onnx.ModelProto:
    """Build two equal Splits of one tensor."""
    nodes = [n("Split", ["h", "sizes"], [f"s{turn}{part}" for part in range(2)], axis=1) for turn in range(2)]
    return between(*nodes, n("Concat", ["s00", "s11"], ["m"], axis=1), sizes=ints(4, 4))()


def linear_tokens() -> onnx.ModelProto:
    """Build linear layers with biases on tokens of a fixed batch."""
    nodes = [
        n("MatMul", ["x", "a"], ["b"], name="first"),
        n("Add", ["b", "bias"], ["c"]),
        n("Gelu", ["c"], ["d"], domain="com.microsoft"),
        n("MatMul", ["d", "e"], ["f"], name="last"),
        n("Add", ["f", "end"], ["y"]),
    ]
    weights = layer_weights(6)
    inputs = [helper.make_tensor_value_info("x", F, [1, 6, 16])]
    return make(
        nodes,
        inputs,
        domains=("com.microsoft",),
        a=np.ascontiguousarray(weights["m1"].T),
        bias=0.1 * weights["m0"][0],
        e=weights["m1"],
        end=0.1 * weights["m1"][0],
    )


def lstm() -> onnx.ModelProto:
    """Build an LSTM between two layers."""
    rng = np.random.default_rng(7)
    gates: dict[str, Any] = {name: (rng.standard_normal((1, 64, 16)) / 4).astype(np.float32) for name in ("wx", "wr")}
    nodes = [
        n("MatMul", ["x", "a"], ["h"], name="first"),
        n("LSTM", ["h", "wx", "wr"], ["seen", "last_h", "last_c"], hidden_size=16),
        n("Squeeze", ["seen", "axis"], ["s"]),
        n("MatMul", ["s", "b"], ["y"], name="last"),
    ]
    weights = layer_weights(3)
    inputs = [helper.make_tensor_value_info("x", F, ["n", 6, 16])]
    return make(nodes, inputs, a=weights["m1"][:16], b=weights["m1"][16:], axis=ints(1), **gates)


def relu_then(op: str, layer: str) -> Callable[[], onnx.ModelProto]:
    """Build a matrix product, Relu, and an operator without an integer kernel."""

    def build() -> onnx.ModelProto:
        nodes = [
            n(layer, ["x", "m0", "bias"][: 3 if layer == "Gemm" else 2], ["a"], name="first"),
            n("Relu", ["a"], ["b"]),
            n("Mul", ["b", "s"], ["c"]) if op == "Mul" else n(op, ["b"], ["c"]),
            n("MatMul", ["c", "m1"], ["y"], name="last"),
        ]
        constants: dict[str, Any] = (
            {"s": np.random.default_rng(1).uniform(0.5, 2, 32).astype(np.float32)} if op == "Mul" else {}
        )
        inputs = [helper.make_tensor_value_info("x", F, ["n", 32])]
        bias: dict[str, Any] = {"bias": 0.1 * layer_weights()["m0"][1]} if layer == "Gemm" else {}
        return make(nodes, inputs, **constants, **bias)

    return build
