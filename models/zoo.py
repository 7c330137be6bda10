"""Small graphs that together cover the operators, shapes and operator sets of users' models.

Each graph has two convolutions (or matrix products) with the tested operator between them. So the operator stands
between integer layers, as it does in a network.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from models.detector_heads.catalog import DETECTORS
from models.net import CHANNELS, OPSET, SIDE, Net

__all__ = ["ZOO", "feeds_of"]

_IMAGE = ("n", CHANNELS, SIDE, SIDE)


def _between(build: Callable[[Net, str], str], channels: int = CHANNELS, opset: int = OPSET) -> onnx.ModelProto:
    """Build Conv -> Relu -> `build` -> Conv. `channels` is the number of channels behind `build`."""
    net = Net()
    middle = build(net, net.node("Relu", net.conv("x")))
    return net.model(net.conv(middle, channels), opset=opset)


def _unary(op: str, **attributes: Any) -> Callable[[], onnx.ModelProto]:
    """Build Conv -> operator -> Conv. The operator reads values of both signs."""

    def build() -> onnx.ModelProto:
        net = Net()
        return net.model(net.conv(net.node(op, net.conv("x"), **attributes)))

    return build


def _layer(dims: int = 2, **attributes: Any) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net.node("Relu", net.conv("x", dims=dims))
        y = net.node("Relu", net.conv(x, dims=dims, **attributes))
        return net.model(net.conv(y, dims=dims), {"x": ("n", CHANNELS, *[SIDE] * dims)})

    return build


def _conv_transpose() -> onnx.ModelProto:
    def middle(net: Net, x: str) -> str:
        weight = net.weight("up.weight", CHANNELS, CHANNELS, 2, 2)
        return net.node("ConvTranspose", x, weight, strides=[2, 2], kernel_shape=[2, 2])

    return _between(middle)


def _dense(kind: str) -> Callable[[], onnx.ModelProto]:
    """Build three matrix products: Gemm with transB 0 or 1, or MatMul and Add."""

    def build() -> onnx.ModelProto:
        net, x = Net(), "x"
        for index, (inputs, outputs) in enumerate(((16, 32), (32, 32), (32, 10))):
            shape = (outputs, inputs) if kind == "transB1" else (inputs, outputs)
            weight, bias = net.weight(f"w{index}", *shape), net.weight(f"b{index}", outputs)
            if kind == "MatMul":
                x = net.node("Add", net.node("MatMul", x, weight), bias)
            else:
                x = net.node("Gemm", x, weight, bias, transB=int(kind == "transB1"))
            x = net.node("Relu", x) if index < 2 else x
        return net.model(x, {"x": ("n", 16)})

    return build


def _residual(net: Net, x: str) -> str:
    return net.node("Relu", net.node("Add", net.conv(x), x))


def _split(net: Net, x: str) -> str:
    first = net.node("Split", x, outputs=2, axis=1, num_outputs=2)
    return net.node("Concat", f"{first}_1", first, axis=1)


def _slice(net: Net, x: str) -> str:
    names = [net.constant(f"slice_{key}", np.array([value], np.int64)) for key, value in (("a", 1), ("b", 9), ("c", 2))]
    return net.node("Slice", x, *names)


def _pad(net: Net, x: str) -> str:
    return net.node("Pad", x, net.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)))


def _resize(mode: str) -> Callable[[Net, str], str]:
    def middle(net: Net, x: str) -> str:
        scales = net.constant("scales", np.array([1, 1, 2, 2], np.float32))
        form = "asymmetric" if mode == "nearest" else "half_pixel"
        extra: dict[str, Any] = {"nearest_mode": "floor"} if mode == "nearest" else {}
        return net.node("Resize", x, "", scales, mode=mode, coordinate_transformation_mode=form, **extra)

    return middle


def _clip(net: Net, x: str) -> str:
    bounds = [net.constant(name, np.float32(value)) for name, value in (("low", 0.0), ("high", 6.0))]
    return net.node("Clip", net.conv(x), *bounds)


def _silu(net: Net, x: str) -> str:
    y = net.conv(x)
    return net.node("Mul", y, net.node("Sigmoid", y))


def _squeeze_and_excitation(net: Net, x: str) -> str:
    y = net.node("GlobalAveragePool", x)
    for index, (op, shape) in enumerate((("Relu", (4, CHANNELS, 1, 1)), ("Sigmoid", (CHANNELS, 4, 1, 1)))):
        y = net.node(op, net.node("Conv", y, net.weight(f"se{index}", *shape)))
    return net.node("Mul", x, y)


def _shared(net: Net, x: str) -> str:
    weight = net.weight("shared", CHANNELS, CHANNELS, 3, 3)
    y = net.node("Relu", net.node("Conv", x, weight, pads=[1] * 4))
    return net.node("Conv", y, weight, pads=[1] * 4)


def _classifier(opset: int = OPSET) -> onnx.ModelProto:
    """Build convolutions, a residual Add, pools and a Gemm, which most networks consist of."""
    net = Net()
    x = net.node("Relu", net.conv("x"))
    x = net.node("MaxPool", _residual(net, x), kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("Flatten", net.node("GlobalAveragePool", net.node("Relu", net.conv(x))))
    return net.model(net.dense(x, CHANNELS, 10), opset=opset)


def _softmax_head() -> onnx.ModelProto:
    net = Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.node("Relu", net.conv("x"))))
    return net.model(net.node("Softmax", net.dense(x, CHANNELS, 10), axis=1))


def _detector_head() -> onnx.ModelProto:
    """Build boxes and scores in one tensor, as in YOLO-like detectors."""
    net = Net()
    x = net.node("Relu", net.conv("x"))
    boxes, scores = net.conv(x, outputs=4), net.node("Sigmoid", net.conv(x, outputs=6))
    both = net.node("Concat", boxes, scores, axis=1)
    shape = net.constant("shape", np.array([0, 10, SIDE * SIDE], np.int64))
    return net.model(net.node("Reshape", both, shape))


def _several_inputs() -> onnx.ModelProto:
    net = Net()
    both = net.node("Concat", net.node("Relu", net.conv("x")), net.node("Relu", net.conv("z")), axis=1)
    return net.model(net.conv(both, 2 * CHANNELS), {"x": _IMAGE, "z": _IMAGE})


def _several_outputs() -> onnx.ModelProto:
    net = Net()
    x = net.node("Relu", net.conv("x"))
    return net.model([net.conv(x), net.node("Relu", net.conv(x, outputs=4))])


def _open_sides() -> onnx.ModelProto:
    net = Net()
    return net.model(net.conv(net.node("Relu", net.conv("x"))), {"x": ("n", CHANNELS, "h", "w")})


def _norm(net: Net, x: str, width: int, name: str) -> str:
    ones = net.constant(f"{name}.weight", np.ones(width, np.float32))
    return net.node("LayerNormalization", x, ones, net.weight(f"{name}.bias", width), axis=-1)


def _layer_norm() -> onnx.ModelProto:
    net = Net()
    x = net.node(
        "MatMul", _norm(net, net.node("MatMul", "x", net.weight("a", 16, 16)), 16, "norm"), net.weight("b", 16, 16)
    )
    return net.model(x, {"x": ("n", 6, 16)})


def _attention() -> onnx.ModelProto:
    """Build one block with one head: LayerNorm, attention, residual, GELU."""
    net, width = Net(), 16
    x = _norm(net, "x", width, "norm")
    q, k, v = (net.node("MatMul", x, net.weight(name, width, width)) for name in "qkv")
    scores = net.node(
        "Mul", net.node("MatMul", q, net.node("Transpose", k, perm=[0, 2, 1])), net.constant("s", np.float32(0.25))
    )
    mixed = net.node("MatMul", net.node("Softmax", scores, axis=-1), v)
    x = net.node("Add", net.node("MatMul", mixed, net.weight("o", width, width)), "x")
    x = net.node("Gelu", net.node("MatMul", x, net.weight("up", width, 2 * width)))
    return net.model(net.node("MatMul", x, net.weight("down", 2 * width, width)), {"x": ("n", 6, width)})


def _channel_shuffle(net: Net, x: str) -> str:
    first = net.constant("first", np.array([0, 2, CHANNELS // 2, SIDE, SIDE], np.int64))
    last = net.constant("last", np.array([0, CHANNELS, SIDE, SIDE], np.int64))
    y = net.node("Transpose", net.node("Reshape", net.conv(x, group=2), first), perm=[0, 2, 1, 3, 4])
    return net.node("Reshape", y, last)


def _prelu(net: Net, x: str) -> str:
    return net.node("PRelu", net.conv(x), net.constant("slope", np.full((CHANNELS, 1, 1), 0.2, np.float32)))


_POOL: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
_OPSETS = tuple(range(11, 27))  # 26 is the newest opset that onnxruntime 1.31 supports

ZOO: Mapping[str, Callable[[], onnx.ModelProto]] = MappingProxyType(
    {
        "conv": _layer(),
        "conv grouped": _layer(group=2),
        "conv depthwise": _layer(group=CHANNELS),
        "conv dilated": _layer(dilations=[2, 2], pads=[2] * 4),
        "conv strided": _layer(strides=[2, 2]),
        "conv asymmetric pads": _layer(pads=[0, 1, 2, 0]),
        "conv 1-D": _layer(dims=1),
        "conv 3-D": _layer(dims=3),
        "conv transpose": _conv_transpose,
        "gemm": _dense("transB0"),
        "gemm transB": _dense("transB1"),
        "matmul": _dense("MatMul"),
        "add": lambda: _between(_residual),
        "mul": lambda: _between(lambda net, x: net.node("Mul", net.conv(x), x)),
        "concat": lambda: _between(lambda net, x: net.node("Concat", net.conv(x), x, axis=1), 2 * CHANNELS),
        "split": lambda: _between(_split),
        "slice": lambda: _between(_slice),
        "pad": lambda: _between(_pad),
        "resize nearest": lambda: _between(_resize("nearest")),
        "resize linear": lambda: _between(_resize("linear")),
        "relu": _unary("Relu"),
        "relu6": lambda: _between(_clip),
        "leaky relu": _unary("LeakyRelu", alpha=0.1),
        "prelu": lambda: _between(_prelu),
        "silu": lambda: _between(_silu),
        "hard swish": _unary("HardSwish"),
        "sigmoid": _unary("Sigmoid"),
        "gelu": _unary("Gelu"),
        "softmax": _softmax_head,
        "max pool": lambda: _between(lambda net, x: net.node("MaxPool", x, **_POOL)),
        "average pool": lambda: _between(lambda net, x: net.node("AveragePool", x, **_POOL)),
        "global average pool": lambda: _between(lambda net, x: net.node("GlobalAveragePool", x)),
        "layer norm": _layer_norm,
        "attention": _attention,
        "squeeze and excitation": lambda: _between(_squeeze_and_excitation),
        "channel shuffle": lambda: _between(_channel_shuffle),
        "detector head": _detector_head,
        "shared weight": lambda: _between(_shared),
        "several inputs": _several_inputs,
        "several outputs": _several_outputs,
        "open height and width": _open_sides,
        **{name: detector.build for name, detector in DETECTORS.items()},
        **{f"opset {opset}": partial(_classifier, opset) for opset in _OPSETS},
    }
)


def feeds_of(model: onnx.ModelProto, rows: int, seed: int = 1) -> dict[str, NDArray[np.float32]]:
    """Return noise for every input. Dynamic sizes become `SIDE`."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.input:
        sizes = [dim.dim_value or SIDE for dim in value.type.tensor_type.shape.dim][1:]
        feeds[value.name] = rng.standard_normal((rows, *sizes), dtype=np.float32)
    return feeds
