"""Small networks, and the steps between a float model and a quantized file taken one at a time."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from converter import Result
from converter.calibration.sequential import solve_layers
from converter.calibration.statistics import calibrate
from converter.data.dataset import Dataset, load_data
from converter.data.inputs import input_specs
from converter.runtime.batch_size import DEFAULT_MEMORY_BUDGET
from converter.runtime.session import open_session
from converter.targets.catalog import find_target
from passes.activations.activation_ranges import ActivationRanges
from passes.base import LayerPass
from passes.graph.check import check
from passes.graph.normalise.normalise import normalise
from passes.ir.model import Model
from passes.numerics.error import sqnr_db
from tests.support.models import make_model

__all__ = [
    "LAYERS",
    "branches",
    "chain",
    "conv",
    "dataset",
    "decibels",
    "images",
    "initializers",
    "network",
    "optimized",
    "prepared",
    "quantize",
    "quiet",
    "random",
    "relative_error",
    "resnet",
    "run",
    "set_ranges",
    "shape_branch",
    "single",
    "wide",
]


def quiet(what: str, done: int, total: int) -> None:
    """Progress nobody sees."""


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Normal numbers, scaled like a weight of that shape when used as one."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


def images(*shape: int, seed: int = 1) -> NDArray[np.float32]:
    """Numbers of one sign more than the other, as activations are: a zero point away from the middle."""
    return random(*shape, seed=seed) + np.float32(0.5)


def network(
    nodes: list[NodeProto],
    constants: dict[str, NDArray[Any]],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str]],
    *,
    opset: int = 21,
) -> onnx.ModelProto:
    """A checked float model, whose shapes agree too."""
    model = make_model(nodes, constants, inputs=inputs, outputs=outputs, opset=opset)
    onnx.checker.check_model(model, full_check=True)
    return model


class _Layer:
    """A linear operator alone in a model: its weight's shape, its input's, and its attributes."""

    def __init__(
        self,
        op: str,
        weight: tuple[int, ...],
        x: tuple[int, ...],
        channels: int,
        *,
        bias: bool = True,
        **attributes: Any,
    ) -> None:
        self.op, self.weight, self.x, self.channels, self.bias = op, weight, x, channels, bias
        self.attributes = attributes

    def model(self) -> onnx.ModelProto:
        names = ["x", "w", "b"] if self.bias else ["x", "w"]
        scale = np.float32(1 / np.sqrt(np.prod(self.weight[1:])))
        constants = {"w": random(*self.weight) * scale, "b": random(self.channels, seed=2)}
        return network(
            [helper.make_node(self.op, names, ["y"], "layer", **self.attributes)],
            {name: constants[name] for name in names[1:]},
            {"x": ["N", *self.x[1:]]},
            {"y": [f"y{axis}" for axis in range(len(self.x))]},
        )

    def images(self) -> NDArray[np.float32]:
        return images(*self.x)


LAYERS = {
    "conv1d": _Layer("Conv", (8, 6, 5), (4, 6, 17), 8, pads=[2, 1], strides=[2]),
    "conv2d": _Layer("Conv", (8, 6, 3, 3), (4, 6, 9, 8), 8, pads=[1, 0, 1, 2], dilations=[1, 2]),
    "conv3d": _Layer("Conv", (4, 3, 2, 3, 2), (2, 3, 5, 6, 4), 4, pads=[0, 1, 1, 1, 1, 0]),
    "grouped": _Layer("Conv", (8, 4, 3, 3), (4, 8, 7, 7), 8, group=2),
    "depthwise": _Layer("Conv", (12, 1, 3, 3), (4, 12, 7, 7), 12, group=12, pads=[1, 1, 1, 1]),
    "no_bias": _Layer("Conv", (5, 7, 1, 1), (4, 7, 6, 6), 5, bias=False),
    "transpose": _Layer("ConvTranspose", (6, 5, 3, 3), (4, 6, 5, 5), 5, strides=[2, 2], output_padding=[1, 0]),
    "transpose_grouped": _Layer("ConvTranspose", (8, 3, 2, 2), (4, 8, 5, 5), 6, group=2, strides=[2, 2]),
    "gemm": _Layer("Gemm", (24, 10), (16, 24), 10),
    "gemm_transposed": _Layer("Gemm", (10, 24), (16, 24), 10, transB=1),
    "gemm_no_bias": _Layer("Gemm", (10, 21), (16, 21), 10, transB=1, bias=False),
    "matmul": _Layer("MatMul", (24, 10), (4, 5, 24), 10, bias=False),
}
"""Every kind of linear layer; weights have odd sizes where they can."""


def conv(
    constants: dict[str, NDArray[Any]], name: str, source: str, result: str, shape: tuple[int, ...], **attributes: Any
) -> NodeProto:
    """A Conv node, 3x3 padded to keep the size, whose weight and bias are added to ``constants``."""
    seed = len(constants)
    fan_in = float(np.prod(shape[1:]))
    constants[f"{name}.weight"] = random(*shape, seed=seed) * np.float32(np.sqrt(2 / fan_in))
    constants[f"{name}.bias"] = random(shape[0], seed=seed + 1) * np.float32(0.1)
    attributes = {"pads": [shape[2] // 2] * 4, **attributes}
    return helper.make_node("Conv", [source, f"{name}.weight", f"{name}.bias"], [result], name, **attributes)


def resnet(*, batch: int | str = "N") -> onnx.ModelProto:
    """Images [n, 3, 12, 12] -> scores [n, 7], with one of everything that a CNN for the CPU is made of."""
    constants: dict[str, NDArray[Any]] = {}
    node = helper.make_node
    constants |= {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    constants |= {"fc.weight": random(7, 16, seed=50) * np.float32(0.25), "fc.bias": random(7, seed=51)}
    nodes = [
        conv(constants, "stem", "x", "stem", (8, 3, 3, 3)),
        node("Relu", ["stem"], ["stem_relu"], "stem_relu"),
        node("MaxPool", ["stem_relu"], ["pooled"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        conv(constants, "block.conv1", "pooled", "block1", (8, 8, 3, 3)),
        node("Relu", ["block1"], ["block1_relu"], "block_relu1"),
        conv(constants, "block.conv2", "block1_relu", "block2", (8, 8, 3, 3)),
        node("Add", ["block2", "pooled"], ["sum"], "block_add"),
        node("Relu", ["sum"], ["sum_relu"], "block_relu2"),
        conv(constants, "silu.conv", "sum_relu", "silu_in", (8, 8, 1, 1)),
        node("Sigmoid", ["silu_in"], ["gate"], "silu_sigmoid"),
        node("Mul", ["silu_in", "gate"], ["silu"], "silu_mul"),
        conv(constants, "depthwise", "silu", "deep", (8, 1, 3, 3), group=8),
        node("Clip", ["deep", "zero", "six"], ["deep6"], "clip6"),
        node("Concat", ["deep6", "silu"], ["joined"], "concat", axis=1),
        conv(constants, "last", "joined", "last", (16, 16, 1, 1)),
        node("Relu", ["last"], ["last_relu"], "last_relu"),
        node("GlobalAveragePool", ["last_relu"], ["average"], "average"),
        node("Flatten", ["average"], ["flat"], "flatten"),
        node("Gemm", ["flat", "fc.weight", "fc.bias"], ["y"], "fc", transB=1),
    ]
    return network(nodes, constants, {"x": [batch, 3, 12, 12]}, {"y": [batch, 7]})


def wide(channels: int = 32) -> onnx.ModelProto:
    """Images [n, 3, 12, 12] -> scores [n, 7]: layers of many sizes, of which 3 bits can pack the largest."""
    constants: dict[str, NDArray[Any]] = {"fc.weight": random(7, channels, seed=50), "fc.bias": random(7, seed=51)}
    node = helper.make_node
    nodes = [
        conv(constants, "stem", "x", "a", (16, 3, 3, 3), strides=[2, 2]),
        node("Relu", ["a"], ["a_relu"], "relu1"),
        conv(constants, "narrow", "a_relu", "b", (8, 16, 1, 1)),
        conv(constants, "broad", "b", "c", (channels, 8, 3, 3)),
        node("Relu", ["c"], ["c_relu"], "relu2"),
        conv(constants, "large", "c_relu", "d", (channels, channels, 3, 3)),
        conv(constants, "faint", "c_relu", "e", (channels, channels, 3, 3)),
        node("Add", ["d", "e"], ["sum"], "add"),
        node("Relu", ["sum"], ["d_relu"], "relu3"),
        node("GlobalAveragePool", ["d_relu"], ["average"], "average"),
        node("Flatten", ["average"], ["flat"], "flatten"),
        node("Gemm", ["flat", "fc.weight", "fc.bias"], ["y"], "fc", transB=1),
    ]
    constants["faint.weight"] *= np.float32(0.05)  # so that it hardly matters how well it is stored
    return network(nodes, constants, {"x": ["N", 3, 12, 12]}, {"y": ["N", 7]})


def branches(*, batch: int | str = "N", side: int = 8) -> onnx.ModelProto:
    """Inputs [n, 3, side, side] and [n, 4], two outputs; two layers read one tensor, and the inputs meet late."""
    constants: dict[str, NDArray[Any]] = {
        "fc.weight": random(8, 6),
        "side.weight": random(4, 8),
        "side.bias": random(8),
    }
    node = helper.make_node
    nodes = [
        conv(constants, "stem", "a", "stem", (8, 3, 3, 3)),
        node("Relu", ["stem"], ["relu"], "relu"),
        conv(constants, "left", "relu", "left", (8, 8, 3, 3)),
        conv(constants, "right", "relu", "right", (8, 8, 1, 1)),
        node("Sub", ["left", "right"], ["difference"], "difference"),
        node("GlobalAveragePool", ["difference"], ["average"], "average"),
        node("Flatten", ["average"], ["flat"], "flatten"),
        node("Gemm", ["b", "side.weight", "side.bias"], ["side"], "side"),
        node("Tanh", ["side"], ["tanh"], "tanh"),
        node("Mul", ["flat", "tanh"], ["gated"], "gate"),
        node("Gemm", ["gated", "fc.weight"], ["y"], "fc"),
    ]
    return network(
        nodes,
        constants,
        {"a": [batch, 3, side, side], "b": [batch, 4]},
        {"y": [batch, 6], "right": [batch, 8, side, side]},
    )


def shape_branch() -> onnx.ModelProto:
    """Conv, Conv, Reshape to [n, 6, 64] by Shape -> Gather -> Concat, Transpose, MatMul."""
    constants: dict[str, NDArray[Any]] = {
        "zero": np.array([0]),
        "rest": np.array([6, -1]),
        "head.weight": random(6, 5),
    }
    node = helper.make_node
    nodes = [
        conv(constants, "first", "x", "a", (4, 3, 3, 3)),
        node("Shape", ["x"], ["shape"], "shape"),
        node("Gather", ["shape", "zero"], ["rows"], "gather"),
        conv(constants, "second", "a", "b", (6, 4, 3, 3)),
        node("Concat", ["rows", "rest"], ["target"], "concat", axis=0),
        node("Reshape", ["b", "target"], ["reshaped"], "reshape"),
        node("Transpose", ["reshaped"], ["turned"], "turn", perm=[0, 2, 1]),
        node("MatMul", ["turned", "head.weight"], ["y"], "head"),
    ]
    return network(nodes, constants, {"x": ["N", 3, 8, 8]}, {"y": ["N", 64, 5]})


def chain(length: int, side: int = 12) -> onnx.ModelProto:
    """Conv, Relu, Conv, Relu, ..., all tensors of one size."""
    constants: dict[str, NDArray[Any]] = {}
    nodes = []
    for index in range(length):
        nodes.append(conv(constants, f"conv{index}", f"t{index}", f"c{index}", (4, 4, 3, 3)))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"t{index + 1}"], f"relu{index}"))
    return network(nodes, constants, {"t0": ["N", 4, side, side]}, {f"t{length}": ["N", 4, side, side]})


def single(name: str) -> onnx.ModelProto:
    """The model of one of `LAYERS`."""
    return LAYERS[name].model()


def prepared(proto: onnx.ModelProto) -> Model:
    """Imported and normalised for the CPU."""
    model = Model(gs.import_onnx(proto), find_target("cpu").rules)
    normalise(model.graph)
    return model


def dataset(model: Model | onnx.ModelProto, data: Any) -> Dataset:
    """Data for the model's inputs; arrays, or a dict of them."""
    proto = gs.export_onnx(model.graph) if isinstance(model, Model) else model
    return load_data(data, input_specs(proto))


def set_ranges(model: Model, data: Any) -> None:
    """Grids of all activations the CPU computes on."""
    step = ActivationRanges(method="minmax")
    step.apply(model, calibrate(model, step.needs(model), dataset(model, data), quiet))


def quantize(
    proto: onnx.ModelProto,
    layer_pass: LayerPass,
    data: Any,
    *,
    ranges: bool = False,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> Model:
    """The model after a layer pass, with integer activations if ``ranges``."""
    model = prepared(proto)
    if ranges:
        set_ranges(model, data)
    solve_layers(model, layer_pass, dataset(model, data), quiet, memory_budget=memory_budget)
    check(model, layer_pass.name)
    return model


def run(proto: onnx.ModelProto, data: Any) -> list[NDArray[np.float32]]:
    """What onnxruntime makes of the file, with all of its optimizations; ``data`` is an array or a dict of them."""
    session = open_session(proto, threads=1)
    feeds = data if isinstance(data, dict) else {session.get_inputs()[0].name: data}
    outputs: list[NDArray[np.float32]] = session.run(None, feeds)
    return outputs


def decibels(result: Result, data: Any) -> float:
    """SQNR of a converted file's first output against the float network's."""
    return sqnr_db(run(result.reference, data)[0], run(result.model, data)[0])


def optimized(proto: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Operators of the graph that onnxruntime really runs."""
    path = folder / "optimized.onnx"
    open_session(proto, threads=1, optimized=path)
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def initializers(proto: onnx.ModelProto) -> dict[str, TensorProto]:
    """Initializers by name."""
    return {tensor.name: tensor for tensor in proto.graph.initializer}


def relative_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference over max|expected|; shapes must agree."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())
