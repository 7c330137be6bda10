"""A network of LSTM, GRU or RNN layers on sequences, and a head."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.graphs import array, node

__all__ = ["CLASSES", "FEATURES", "HIDDEN", "sequences", "stacked"]

FEATURES, HIDDEN, CLASSES = 24, 32, 10
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def sequences(count: int = 6, *, seed: int = 1) -> np.ndarray:
    """Return steps ``[9, n, 24]`` of sequences."""
    return array(9, count, FEATURES, seed=seed)


def stacked(
    op: str,
    layers: int = 1,
    *,
    directions: int = 2,
    shared: bool = False,
    head: bool = True,
    dtype: type[np.floating] = np.float32,
    **attributes: Any,
) -> onnx.ModelProto:
    """Build layers ``rnn0``, ``rnn1``, ... with weights W0, R0 and biases B0, and a MatMul ``head``.

    Args:
        op: LSTM, GRU or RNN.
        layers: Number of layers.
        directions: 1, or 2 for layers that run both ways.
        shared: Whether all layers have the weights of the first one. Then the features are the states.
        head: Whether there is a head. Otherwise the states of the last layer are the output.
        dtype: Type of weights, input and output.
        attributes: Further attributes of the layers.
    """
    rows, inputs = _GATES[op] * HIDDEN, FEATURES
    constants: dict[str, np.ndarray] = {"states": np.array([0, 0, -1])}
    nodes, source = [], "x"
    direction = "bidirectional" if directions == 2 else "forward"
    for index in range(layers):
        own = 0 if shared else index
        if own == index:
            weights = {"W": (rows, inputs), "R": (rows, HIDDEN), "B": (2 * rows,)}
            for name, shape in weights.items():
                values = array(directions, *shape, seed=index) * shape[-1] ** -0.5
                constants[f"{name}{index}"] = values.astype(dtype)
        reads = [source, f"W{own}", f"R{own}", f"B{own}"]
        nodes += [
            node(op, reads, [f"y{index}"], name=f"rnn{index}", hidden_size=HIDDEN, direction=direction, **attributes),
            node("Transpose", [f"y{index}"], [f"turned{index}"], name=f"turn{index}", perm=[0, 2, 1, 3]),
            node("Reshape", [f"turned{index}", "states"], [f"states{index}"], name=f"join{index}"),
        ]
        source, inputs = f"states{index}", directions * HIDDEN
        if shared:
            constants["fit"] = array(inputs, FEATURES) / np.float32(inputs**0.5)
            nodes.append(node("MatMul", [source, "fit"], [f"fitted{index}"], name=f"fit{index}"))
            source, inputs = f"fitted{index}", FEATURES
    if head:
        constants["classes"] = (array(inputs, CLASSES) * inputs**-0.5).astype(dtype)
        nodes.append(node("MatMul", [source, "classes"], ["y"], name="head"))
    else:
        nodes[-1].output[0] = "y"
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "stacked",
        [helper.make_tensor_value_info("x", kind, [9, "n", FEATURES])],
        [helper.make_tensor_value_info("y", kind, [9, "n", CLASSES if head else directions * HIDDEN])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    assert kind in {TensorProto.FLOAT, TensorProto.FLOAT16}
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return model
