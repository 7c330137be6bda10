"""Float islands: operators whose inputs onnxruntime dequantizes and whose outputs it quantizes.

They are found in the graph that onnxruntime runs. An island is a connected group of float operators with integer
operators before and behind it. Each island costs one pass over its tensors to dequantize them, and one to quantize
them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import NodeProto

__all__ = ["Island", "find_islands"]

_LEAVES, _RETURNS = "DequantizeLinear", "QuantizeLinear"
_ON_INTEGERS = frozenset({"QGemm", "ConvInteger", "MatMulInteger", "NhwcMaxPool"})


@dataclass(frozen=True)
class Island:
    """Connected float operators between integer operators.

    Attributes:
        operators: Operator types, in the graph's order.
        nodes: Names of the nodes in onnxruntime's graph.
        dequantize: Number of DequantizeLinear nodes before the island. A MatMulIntegerToFloat writes floats itself and
            does not count.
        quantize: Number of QuantizeLinear nodes behind the island.
    """

    operators: tuple[str, ...]
    nodes: tuple[str, ...]
    dequantize: int
    quantize: int


def find_islands(nodes: Sequence[NodeProto]) -> tuple[Island, ...]:
    """Find the islands of an optimized graph.

    Args:
        nodes: Nodes of the graph in topological order, as onnxruntime writes them.

    Returns:
        The islands, in the graph's order.
    """
    makers = {name: node for node in nodes for name in node.output if name}
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    floats = {id(node): node for node in nodes if _is_float(node)}
    islands = []
    while floats:
        first = next(iter(floats.values()))
        del floats[id(first)]
        island, front = [first], [first]
        leaves: dict[int, NodeProto] = {}
        returns: dict[int, NodeProto] = {}
        integers = False
        while front:
            node = front.pop()
            before = [makers[name] for name in node.input if name in makers]
            behind = [reader for name in node.output for reader in readers.get(name, [])]
            for other in before + behind:
                if id(other) in floats:
                    del floats[id(other)]
                    island.append(other)
                    front.append(other)
            leaves |= {id(other): other for other in before if other.op_type == _LEAVES}
            integers |= any(other.op_type == "MatMulIntegerToFloat" or _writes_floats(other) for other in before)
            returns |= {id(other): other for other in behind if other.op_type == _RETURNS}
        if (leaves or integers) and returns:
            order = [node for node in nodes if any(node is member for member in island)]
            names = tuple(node.name for node in order)
            islands.append(Island(tuple(node.op_type for node in order), names, len(leaves), len(returns)))
    return tuple(islands)


def _is_float(node: NodeProto) -> bool:
    """Whether a node may belong to an island. A node that only moves integers forms a group that is discarded later."""
    integer = node.op_type.startswith("QLinear") or node.op_type in _ON_INTEGERS
    return not integer and node.op_type not in {_LEAVES, _RETURNS, "MatMulIntegerToFloat"}


def _writes_floats(node: NodeProto) -> bool:
    """Whether a node is a QGemm without a scale for its output."""
    return node.op_type == "QGemm" and len([name for name in node.input if name]) < 8
