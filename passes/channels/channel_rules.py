"""The effect of every operator on whole channels: the rules by which channels can be removed from a graph.

Operators that move channels have the rules of scale migration (`passes.scale_migration.scale_rules`). Others treat each
channel by itself. A scale cannot pass a sigmoid, but the removal of a channel can. So there are more of them here.

Each rule ties the wires of a node. It returns why that is not possible, or None.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import onnx_graphsurgeon as gs

from passes.ir.surgery import is_default_domain, sole_consumer
from passes.scale_migration.scale_rules import aligned, tie
from passes.scale_migration.scale_ties import Ties, activations

__all__ = ["tie_channels", "why_shared"]

_UNKNOWN = "reads a tensor whose channels are not known"
_BROADCAST = "is broadcast over the channels"
_ONE_BY_ONE = (
    *("Abs", "Cast", "Ceil", "Celu", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish"),
    *("Identity", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign"),
    *("Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu"),
)
_TOGETHER = ("Add", "Div", "Max", "Mean", "Min", "Mul", "Pow", "Sub", "Sum")


def _unary(ties: Ties, node: gs.Node) -> str | None:
    source = ties.read(node.inputs[0])
    if source is None:
        return _UNKNOWN
    if any(tensor.outputs for tensor in node.outputs[1:]):
        return "has several outputs"
    ties.write(node.outputs[0], source.ids, source.axis, source.rank)
    return None


def _clip(ties: Ties, node: gs.Node) -> str | None:
    if any(isinstance(tensor, gs.Variable) and tensor.name for tensor in node.inputs[1:]):
        return "has bounds that are not constants"
    return _unary(ties, node)


def _prelu(ties: Ties, node: gs.Node) -> str | None:
    if not isinstance(node.inputs[1], gs.Constant):
        return "has slopes that are not constants"
    return _together(ties, node)


def _together(ties: Ties, node: gs.Node) -> str | None:
    """Tie all operands that have the same channels. One that is broadcast over the channels keeps its own."""
    operands = [ties.read(tensor) for tensor in activations(node.inputs)]
    joined = aligned(node, operands)
    if isinstance(joined, str):
        return joined
    whole = [wires for wires in operands if wires is not None and len(wires.ids) == len(joined.ids)]
    if not whole:
        return "broadcasts one channel to several"
    for wires in operands:
        assert wires is not None  # `aligned` refuses it
        if len(wires.ids) < len(joined.ids):
            ties.fix(wires.ids, f"{node.name} ({node.op}): its operand {_BROADCAST}")
    for wires in whole[1:]:
        ties.join(whole[0].ids, wires.ids)
    ties.write(node.outputs[0], whole[0].ids, joined.axis, joined.rank)
    return None


def _batch_normalization(ties: Ties, node: gs.Node) -> str | None:
    source = ties.read(node.inputs[0])
    if node.attrs.get("training_mode", 0):
        return "is in training mode"
    if source is None or source.axis != 1:
        return _UNKNOWN
    if not all(isinstance(tensor, gs.Constant) for tensor in node.inputs[1:]):
        return "has parameters that are not constants"
    return _unary(ties, node)


def _slice(ties: Ties, node: gs.Node) -> str | None:
    source = ties.read(node.inputs[0])
    axes, steps = (
        np.asarray(node.inputs[index].values).tolist()
        if len(node.inputs) > index and isinstance(node.inputs[index], gs.Constant)
        else None
        for index in (3, 4)
    )
    if source is not None and steps is not None:
        names = range(len(steps)) if axes is None else axes
        if any(axis % source.rank == source.axis and step != 1 for axis, step in zip(names, steps, strict=True)):
            return "takes channels at a distance of each other"
    tie(ties, node)
    return None


def _resize(ties: Ties, node: gs.Node) -> str | None:
    if len(node.inputs) > 3 and node.inputs[3].name and not isinstance(node.inputs[3], gs.Constant):
        return "has sizes that are not constants"
    tie(ties, node)
    return None


def _shape(ties: Ties, node: gs.Node) -> str | None:
    """Fix channels whose number becomes a value of the graph."""
    source = ties.read(node.inputs[0])
    if source is not None:
        start, end = node.attrs.get("start", 0), node.attrs.get("end", source.rank)
        if node.op == "Size" or source.axis in range(source.rank)[start:end]:
            return "reads the number of channels"
    return None


Rule = Callable[[Ties, gs.Node], str | None]

_RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **dict.fromkeys(_ONE_BY_ONE, _unary),
        **dict.fromkeys(_TOGETHER, _together),
        "BatchNormalization": _batch_normalization,
        "Clip": _clip,
        "PRelu": _prelu,
        "Resize": _resize,
        "Shape": _shape,
        "Size": _shape,
        "Slice": _slice,
    }
)


def tie_channels(ties: Ties, node: gs.Node) -> None:
    """Tie the inputs of a node that is no linear layer to its outputs, or fix both with a reason."""
    rule = _RULES.get(node.op) if is_default_domain(node) else None
    if rule is None:
        tie(ties, node)  # it refuses what it does not know
        return
    reason = rule(ties, node)
    if reason is not None:
        ties.fix_node(node, f"{node.name} ({node.op}) {reason}")


def why_shared(graph: gs.Graph, node: gs.Node) -> str | None:
    """Return why a layer's weight cannot become smaller, or None if it can."""
    weight = node.inputs[1]
    return None if sole_consumer(graph, weight) is node else f"it shares {weight.name} with another node"
