"""A recurrent network: a state that has its batch on axis 1, and a gain without axes."""

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.support.graphs import array, node

__all__ = ["FRAME", "recurrent", "runs"]

FRAME = 64
FLOAT = TensorProto.FLOAT


def recurrent(*, names: bool = True, gain: bool = True) -> onnx.ModelProto:
    """Frames [n, 64] and a state [2, n, 16] give scores [n, 8] and the next state.

    Args:
        names: Whether open sizes have names.
        gain: Whether there is an input without axes, which scales the features.
    """
    batch, layers = ("n", "layers") if names else (None, None)
    constants = {
        "w0": array(16, 1, 9) / 3,
        "w1": array(16, 16) / 4,
        "w2": array(16, 8) / 4,
        "one": np.array([1]),
        "two": np.array([2]),
        "zero": np.array(0),
        "layers": np.array([2, 1, 1]),
    }
    nodes = [
        node("Unsqueeze", ["x", "one"], ["wave"]),
        node("Conv", ["wave", "w0"], ["a"], name="conv", strides=[4]),
        node("Relu", ["a"], ["b"]),
        node("ReduceMean", ["b", "two"], ["c"], keepdims=0),
        node("Mul", ["c", "gain"], ["d"]) if gain else node("Identity", ["c"], ["d"]),
        node("Gather", ["state", "zero"], ["s"], axis=0),
        node("Add", ["d", "s"], ["e"]),
        node("MatMul", ["e", "w1"], ["f"], name="hidden"),
        node("Tanh", ["f"], ["g"]),
        node("MatMul", ["g", "w2"], ["y"], name="scores"),
        node("Unsqueeze", ["g", "zero_axis"], ["h"]),
        node("Tile", ["h", "layers"], ["next"]),
    ]
    constants["zero_axis"] = np.array([0])
    inputs = [("x", [batch, FRAME]), ("state", [layers if layers else None, batch, 16])]
    graph = helper.make_graph(
        nodes,
        "recurrent",
        [
            *(helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs),
            *([helper.make_tensor_value_info("gain", FLOAT, [])] if gain else []),
        ],
        [
            helper.make_tensor_value_info("y", FLOAT, [batch, 8]),
            helper.make_tensor_value_info("next", FLOAT, [2, batch, 16]),
        ],
        [onnx.numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def runs(count: int = 32, *, gain: bool = True, seed: int = 0) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Yield the inputs of runs with 1, 2, 3, 1, ... frames."""
    for index in range(count):
        frames = index % 3 + 1
        feeds = {"x": array(frames, FRAME, seed=seed + index), "state": array(2, frames, 16, seed=seed + index) / 2}
        yield feeds | ({"gain": np.array(1.5, np.float32)} if gain else {})
