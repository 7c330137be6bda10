"""Which activation tensors are quantized: the ones between operators that the target runs on integers.

A linear layer reads and writes integers. Other operators join it where an input is quantized, whoever asked for that;
operators that only move values keep the grid of what they read; a Relu or Clip right after a linear layer or an Add is
absorbed: its output is quantized and the tensor before it is not, so the clamp is the quantizer's own saturation.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.linear import LINEAR_OPS, why_not_linear

__all__ = ["Placement", "Rules", "clamp_bounds", "place"]


@dataclass(frozen=True)
class Rules:
    """What a target's integer kernels accept; one instance per target, as data.

    Attributes:
        linear: linear operators with integer kernels.
        compute: other operators that read and write integers, each tensor with its own grid.
        moving: operators that keep their input's grid.
        absorbable: operators whose clamp the following quantizer takes over.
        signed: activations are int8 rather than uint8.
        symmetric: activation grids have zero point 0 (int8) or the middle (uint8).
        float_outputs: linear operators that may write a float graph output.
    """

    linear: frozenset[str]
    compute: frozenset[str]
    moving: frozenset[str]
    absorbable: frozenset[str]
    signed: bool = False
    symmetric: bool = False
    float_outputs: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Placement:
    """The decision for one graph.

    Attributes:
        tensors: quantized activation tensors, in the graph's order, with the tensor whose grid each uses (often
            itself).
        bounds: what an absorbed clamp says of a tensor's range, ``(low, high)``.
        integer: nodes that run on integers.
        reasons: why a node with a kernel in `Rules`, or one next to integers, stays in float.
    """

    tensors: Mapping[str, str]
    bounds: Mapping[str, tuple[float, float]]
    integer: frozenset[str]
    reasons: Mapping[str, str]


def clamp_bounds(node: gs.Node) -> tuple[float, float] | None:
    """The interval a Relu or constant Clip clamps to; None for any other node."""
    if node.op == "Relu":
        return 0.0, np.inf
    if node.op != "Clip":
        return None
    bounds = [-np.inf, np.inf]
    for index in (1, 2):
        if len(node.inputs) > index and node.inputs[index].name:
            if not isinstance(node.inputs[index], gs.Constant):
                return None
            bounds[index - 1] = float(np.asarray(node.inputs[index].values).reshape(-1)[0])
    return bounds[0], bounds[1]


def place(graph: gs.Graph, rules: Rules, layers: frozenset[str]) -> Placement:
    """Decide for every tensor of a topologically sorted graph; ``layers`` are the linear layers to be quantized.

    Who reads a tensor does not depend on the order of the nodes, so neither may the decision: it is taken again with
    every tensor known that is quantized for a later node, until none is added.
    """
    readers: dict[str, list[gs.Node]] = {}
    for node in graph.nodes:
        for tensor in node.inputs:
            readers.setdefault(tensor.name, []).append(node)
    known: frozenset[str] = frozenset()
    while True:
        placement = _walk(graph, rules, layers, readers, known)
        if known.issuperset(placement.tensors):
            return placement
        known = known.union(placement.tensors)


def _walk(
    graph: gs.Graph,
    rules: Rules,
    layers: frozenset[str],
    readers: Mapping[str, list[gs.Node]],
    known: frozenset[str],
) -> Placement:
    """One walk over the nodes; ``known`` are tensors that will be quantized."""
    outputs = {tensor.name for tensor in graph.outputs}
    tensors: dict[str, str] = {}
    bounds: dict[str, tuple[float, float]] = {}
    integer: set[str] = set()
    reasons: dict[str, str] = {}

    def result_of(node: gs.Node) -> str:
        """The tensor to quantize for this node's output: past an absorbed clamp."""
        name = str(node.outputs[0].name)
        following = readers.get(name, [])
        if len(following) == 1 and name not in outputs and following[0].op in rules.absorbable:
            clamp = clamp_bounds(following[0])
            if clamp is not None and clamp[0] <= 0 <= clamp[1]:
                result = str(following[0].outputs[0].name)
                bounds[result] = clamp
                integer.add(following[0].name)
                return result
        return name

    for node in graph.nodes:
        if node.name in integer:
            continue
        if node.op in LINEAR_OPS:
            reason = _why_float_linear(node, rules, layers)
            if reason:
                reasons[node.name] = reason
                continue
            tensors.setdefault(node.inputs[0].name, node.inputs[0].name)
            result = result_of(node)
            integer.add(node.name)
            if not (result in outputs and result == node.outputs[0].name and node.op in rules.float_outputs):
                tensors.setdefault(result, result)
            continue
        data = [tensor for tensor in node.inputs if not isinstance(tensor, gs.Constant) and tensor.name]
        data = data[:1] if node.op in rules.moving else data
        if not any(tensor.name in tensors or tensor.name in known for tensor in data):
            continue
        reason = _why_float(node, rules, data, outputs)
        if reason:
            reasons[node.name] = reason
            continue
        integer.add(node.name)
        for tensor in data:
            tensors.setdefault(tensor.name, tensor.name)
        if node.op in rules.moving:
            for output in node.outputs:
                tensors.setdefault(output.name, tensors[data[0].name])
            continue
        tensors.setdefault(*(2 * (result_of(node),)))
    return Placement(tensors, bounds, frozenset(integer), reasons)


def _why_float_linear(node: gs.Node, rules: Rules, layers: frozenset[str]) -> str | None:
    reason = why_not_linear(node) or (None if node.name in layers else "left in float by the recipe")
    if reason is None and node.op not in rules.linear:
        return f"the target has no integer {node.op}"
    return reason


def _why_float(node: gs.Node, rules: Rules, data: list[gs.Variable], outputs: set[str]) -> str | None:
    if node.op not in rules.compute | rules.moving:
        return f"the target has no integer {node.op}"
    if any(output.name in outputs for output in node.outputs):
        return "it writes a graph output"
    if node.op in rules.moving and data[0].name != node.inputs[0].name:
        return "its first input is a constant"
    if len(data) < len(node.inputs) and node.op in rules.compute:
        return "one operand is a constant"
    if node.op == "Resize" and node.attrs.get("mode", "nearest") != "nearest":
        return "only nearest Resize has an integer kernel"
    if node.op == "MaxPool" and len(node.outputs) > 1:
        return "it also writes indices"
    if any(tensor.dtype is not None and np.dtype(tensor.dtype).kind != "f" for tensor in data):
        return "its operands are not float"
    return None
