"""Tiny ONNX models and data for tests that need a whole file."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

__all__ = ["CLASSES", "SIDE", "images", "make_model", "save_images", "small_cnn"]

SIDE, CLASSES = 12, 5


def make_model(
    nodes: list[NodeProto],
    constants: dict[str, NDArray[Any]] | list[TensorProto],
    *,
    inputs: dict[str, list[Any]],
    outputs: dict[str, list[Any]],
    opset: int = 21,
) -> onnx.ModelProto:
    """A checked float model; constants are arrays by name, or tensors as they are."""
    if isinstance(constants, dict):
        constants = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        constants,
    )
    domains = {node.domain for node in nodes if node.domain}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return model


def small_cnn(seed: int = 0, *, transpose: bool = True) -> onnx.ModelProto:
    """Conv, depthwise Conv, residual Add, ConvTranspose, pool, Gemm; images [n, 3, 12, 12] -> scores [n, 5]."""
    draw = np.random.default_rng(seed)

    def weight(*shape: int) -> NDArray[np.float32]:
        values = draw.standard_normal(shape, dtype=np.float32)
        return values / np.float32(np.sqrt(np.prod(shape[1:])))

    up = helper.make_node("ConvTranspose", ["sum", "up.weight"], ["up"], "up", kernel_shape=[2, 2], strides=[2, 2])
    nodes = [
        helper.make_node("Conv", ["input", "stem.weight", "stem.bias"], ["stem"], "stem", pads=[1] * 4),
        helper.make_node("Relu", ["stem"], ["relu"], "relu"),
        helper.make_node("Conv", ["relu", "deep.weight", "deep.bias"], ["deep"], "deep", pads=[1] * 4, group=8),
        helper.make_node("Add", ["deep", "relu"], ["sum"], "add"),
        *([up] if transpose else []),
        helper.make_node("GlobalAveragePool", ["up" if transpose else "sum"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], ["output"], "fc", transB=1),
    ]
    constants = {
        "stem.weight": weight(8, 3, 3, 3),
        "stem.bias": weight(8),
        "deep.weight": weight(8, 1, 3, 3),
        "deep.bias": weight(8),
        "fc.weight": weight(CLASSES, 8),
        "fc.bias": weight(CLASSES),
    }
    if transpose:
        constants["up.weight"] = weight(8, 8, 2, 2)
    return make_model(nodes, constants, inputs={"input": ["n", 3, SIDE, SIDE]}, outputs={"output": ["n", CLASSES]})


def images(count: int = 24, *, side: int = SIDE, seed: int = 1) -> NDArray[np.uint8]:
    """Random images [n, side, side, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def save_images(path: Path, count: int = 24, *, side: int = SIDE, seed: int = 1) -> Path:
    """An .npz of random images and labels."""
    labels = np.random.default_rng(seed).integers(0, CLASSES, count)
    np.savez(path, x=images(count, side=side, seed=seed), y=labels)
    return path
