"""Floats between integers: what onnxruntime dequantizes, computes in float and quantizes again.

Read off the graph that onnxruntime runs. An island is float operators that hang together, with integers before and
behind them; each costs a pass over its tensors to leave the integers and one to come back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import NodeProto

__all__ = ["Island", "find_islands"]

_LEAVES, _RETURNS = "DequantizeLinear", "QuantizeLinear"
_ON_INTEGERS = frozenset({"QGemm", "ConvInteger", "MatMulInteger", "NhwcMaxPool"})


@dataclass(frozen=True)
class Island:
    """Float operators between integers.

    operators   in the graph's order
    nodes       their names, as onnxruntime calls them
    dequantize  DequantizeLinear nodes before it; a MatMulIntegerToFloat, which writes floats, is none
    quantize    QuantizeLinear nodes behind it
    """

    operators: tuple[str, ...]
    nodes: tuple[str, ...]
    dequantize: int
    quantize: int


def find_islands(nodes: Sequence[NodeProto]) -> tuple[Island, ...]:
    """The islands of an optimized graph, in its order; ``nodes`` are sorted, as onnxruntime writes them."""
    makers = {name: node for node in nodes for name in node.output if name}
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    floats = {id(node): node for node in nodes if _is_float(node)}
    found = []
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
            found.append(Island(tuple(node.op_type for node in order), names, len(leaves), len(returns)))
    return tuple(found)


def _is_float(node: NodeProto) -> bool:
    """Whether a node computes or moves floats; what moves integers has them on both sides, and is no island."""
    integer = node.op_type.startswith("QLinear") or node.op_type in _ON_INTEGERS
    return not integer and node.op_type not in {_LEAVES, _RETURNS, "MatMulIntegerToFloat"}


def _writes_floats(node: NodeProto) -> bool:
    """A QGemm without a scale for its output."""
    return node.op_type == "QGemm" and len([name for name in node.input if name]) < 8
