"""LSTM, GRU and RNN: layers with a weight for the input and one for the state, which ONNX calls W and R.

Both are ``[directions, gates * hidden, inputs]``, so a direction is a group ``g``, and the rows of its gates are its
outputs ``o``. The attribute `layout` and the order of the gates do not matter to a scale of a row.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from passes.ir.linear import RECURRENT_OPS, Linear, Scalar
from passes.ir.surgery import is_default_domain

__all__ = [
    "NO_FLOATS",
    "GateWeight",
    "Recurrent",
    "readers_of_weights",
    "recurrent_layers",
    "recurrent_nodes",
    "tied_recurrent",
    "why_not_recurrent",
]

NO_FLOATS = "the target reads no weights that the file dequantizes"
"""Why the weights stay in float on a target without weight-only files."""

_OPERANDS = (1, 2)  # of W and R


@dataclass(frozen=True)
class GateWeight(Linear):
    """The weight W or R of a node, stored as ``[g, o, k]``. `operand` says which of them."""

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """Shape ``(g, o, k)``: directions, rows of all gates, inputs or hidden size."""
        g, o, k = self.weight_shape
        return g, o, k

    @property
    def has_rows(self) -> bool:
        """Always true."""
        return True

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """Shape ``(g, o, 1)``."""
        return (*self.weight_shape[:2], 1)

    def matrix(self, stored: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return the stored weight, which is ``[g, o, k]``."""
        return stored

    def stored(self, matrix: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return the matrix, which the node stores as it is."""
        return matrix


@dataclass(frozen=True)
class Recurrent:
    """An LSTM, GRU or RNN whose weights are constants.

    Attributes:
        name, op: Name and operator of the node.
        weights: Its weights W and R.
        batch_first: Whether the batch is the first axis of its input and output, and not the second (`layout`).
    """

    name: str
    op: str
    weights: tuple[GateWeight, GateWeight]
    batch_first: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of W and R side by side, ``(directions, gates * hidden, inputs + hidden)``."""
        first, second = (weight.matrix_shape for weight in self.weights)
        return first[0], first[1], first[2] + second[2]


def recurrent_nodes(graph: gs.Graph) -> dict[str, gs.Node]:
    """Return every LSTM, GRU and RNN by name, in the graph's order, whether its weights can be quantized or not."""
    return {str(node.name): node for node in graph.nodes if node.op in RECURRENT_OPS}


def recurrent_layers(graph: gs.Graph) -> dict[str, Recurrent]:
    """Return all nodes whose weights can be quantized by name, in the graph's order."""
    nodes = recurrent_nodes(graph)
    return {name: _recurrent(node) for name, node in nodes.items() if why_not_recurrent(node) is None}


def why_not_recurrent(node: gs.Node) -> str | None:
    """Return why the weights of an LSTM, GRU or RNN cannot be quantized, or None if they can."""
    if not is_default_domain(node):
        return f"it is an operator of domain {node.domain}, not of ONNX"
    for operand, name in zip(_OPERANDS, "WR", strict=True):
        weight = node.inputs[operand] if operand < len(node.inputs) else None
        if not isinstance(weight, gs.Constant):
            return f"its weight {name} is an activation"
        if weight.dtype != np.float32:
            return f"its weight {name} is {np.dtype(weight.dtype).name}, not float32"
        if len(weight.shape) != 3 or 0 in weight.shape:
            return f"its weight {name} has shape {tuple(weight.shape)}, not three axes with elements"
    return None


def readers_of_weights(layers: Iterable[Recurrent]) -> Mapping[str, tuple[GateWeight, ...]]:
    """Return the operands that read each weight, by the weight's name. W and R of a node can be one weight."""
    readers: dict[str, tuple[GateWeight, ...]] = {}
    for layer in layers:
        for weight in layer.weights:
            readers[weight.weight] = (*readers.get(weight.weight, ()), weight)
    return readers


def tied_recurrent(layers: Iterable[Recurrent]) -> list[tuple[str, ...]]:
    """Return the names of the nodes, those that share a weight together."""
    groups: list[tuple[set[str], list[str]]] = []
    for layer in layers:
        weights, names = {weight.weight for weight in layer.weights}, [layer.name]
        for group in [group for group in groups if group[0] & weights]:
            groups.remove(group)
            weights, names = group[0] | weights, [*group[1], *names]
        groups.append((weights, names))
    return [tuple(names) for _, names in groups]


def _recurrent(node: gs.Node) -> Recurrent:
    return Recurrent(str(node.name), node.op, (_weight(node, 1), _weight(node, 2)), bool(node.attrs.get("layout", 0)))


def _weight(node: gs.Node, operand: int) -> GateWeight:
    shape = tuple(int(size) for size in node.inputs[operand].shape)
    return GateWeight(
        name=str(node.name),
        op=node.op,
        input=node.inputs[0].name,
        output=next((tensor.name for tensor in node.outputs if tensor.name), ""),
        weight=node.inputs[operand].name,
        weight_shape=shape,
        bias=None,
        groups=shape[0],
        operand=operand,
    )
