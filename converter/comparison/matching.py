"""Which tensor of a quantized graph stands for which tensor of its float reference.

Quantizing an activation `T` makes `T -> QuantizeLinear -> DequantizeLinear`, whatever those two call what they write.
So `T` is matched with what comes out, which carries the rounding of the activation too, or else with a tensor that is
still called `T`. A tensor absorbed by a fusion (the output of a Conv before its Relu) has no match.
"""

from dataclasses import dataclass

import onnx

__all__ = ["Match", "match_tensors"]


@dataclass(frozen=True)
class Match:
    """A tensor of the reference, the node that computes it there, and the tensor ``other`` that stands for it."""

    layer: str
    op: str
    tensor: str
    other: str


def match_tensors(reference: onnx.GraphProto, other: onnx.GraphProto) -> tuple[list[Match], list[str]]:
    """Tensors of the reference, in graph order, with the tensor of `other` that stands for each, and those without.

    Constants, and what is computed from constants alone, are left out.
    """
    there = {name for node in other.node for name in node.output if name}
    rounded = _dequantized(other)
    fixed = {tensor.name for tensor in reference.initializer}
    live = [value.name for value in reference.input if value.name not in fixed]
    matches = [Match(name, "Input", name, rounded[name]) for name in live if name in rounded]
    unmatched = []
    reached = set(live)
    for node in reference.node:
        if reached.isdisjoint(node.input):
            continue
        for tensor in filter(None, node.output):
            reached.add(tensor)
            if tensor in there:
                matches.append(Match(node.name or tensor, node.op_type, tensor, rounded.get(tensor, tensor)))
            else:
                unmatched.append(tensor)
    return matches, unmatched


def _dequantized(graph: onnx.GraphProto) -> dict[str, str]:
    """By float tensor: what a DequantizeLinear makes of the codes that a QuantizeLinear made of it."""
    sources = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    found: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in sources:
            found.setdefault(sources[node.input[0]], node.output[0])
    return found
