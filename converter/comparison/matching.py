"""Matching of the tensors of a float reference with those of its quantized graph.

Quantizing an activation `T` makes `T -> QuantizeLinear -> DequantizeLinear`, with any names for the two outputs. So
`T` is matched with the output of the DequantizeLinear, which includes the rounding of the activation. Without such a
pair it is matched with the tensor that is still called `T`. A tensor inside a fused operator (the output of a Conv
before its Relu) has no match.
"""

from dataclasses import dataclass

import onnx

from passes.ir.bodies import tensors_read

__all__ = ["Match", "match_tensors"]


@dataclass(frozen=True)
class Match:
    """A tensor of the reference and its counterpart.

    Attributes:
        layer: Name of the node that computes the tensor in the reference.
        op: Operator of that node.
        tensor: Name of the tensor in the reference.
        other: Name of its counterpart in the quantized graph.
    """

    layer: str
    op: str
    tensor: str
    other: str


def match_tensors(reference: onnx.GraphProto, other: onnx.GraphProto) -> tuple[list[Match], list[str]]:
    """Match the tensors of two graphs. Constants, and tensors computed from constants alone, are left out.

    Args:
        reference: Graph of the float model.
        other: Graph of the quantized model.

    Returns:
        The matches, in the order of the reference's graph, and the reference's tensors without a match.
    """
    there = {name for node in other.node for name in node.output if name}
    rounded = _dequantized(other)
    fixed = {tensor.name for tensor in reference.initializer}
    live = [value.name for value in reference.input if value.name not in fixed]
    matches = [Match(name, "Input", name, rounded[name]) for name in live if name in rounded]
    unmatched = []
    reached = set(live)
    for node in reference.node:
        if reached.isdisjoint(tensors_read(node)):
            continue
        for tensor in filter(None, node.output):
            reached.add(tensor)
            if tensor in there:
                matches.append(Match(node.name or tensor, node.op_type, tensor, rounded.get(tensor, tensor)))
            else:
                unmatched.append(tensor)
    return matches, unmatched


def _dequantized(graph: onnx.GraphProto) -> dict[str, str]:
    """Return, for each float tensor that is quantized and dequantized, the output of the DequantizeLinear."""
    sources = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    outputs: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in sources:
            outputs.setdefault(sources[node.input[0]], node.output[0])
    return outputs
