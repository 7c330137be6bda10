"""Find channels whose scale can be moved from a layer's inputs into the layers before.

A `ScaleGroup` is a connected component of channels. It has all layers that write or read activations with tied scales.
Scales are tied by residual Adds and other operators between the layers. The group's ``size`` free scales can have any
positive values: `passes.scale_migration.rescale` multiplies the rows of the producers' weights and divides the columns
of the consumers', so the network computes the same. Every layer input and output without a group has a reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from passes.errors import QuantizationError
from passes.graph.normalise.shapes import infer_shapes
from passes.ir.linear import LINEAR_OPS, Linear, find_linear, why_not_linear
from passes.ir.model import Model
from passes.ir.surgery import sole_consumer
from passes.scale_migration.scale_rules import tie
from passes.scale_migration.scale_ties import Indices, Shift, Ties, Wires

__all__ = ["ScaleGroup", "ScaleGroups", "connected", "input_channels", "scale_groups"]


@dataclass(frozen=True)
class ScaleGroup:
    """Layers around activations whose channels share ``size`` free scales.

    The arrays have the index of each channel's scale, or -1 if its scale is fixed at 1.

    Attributes:
        size: Number of free scales.
        producers: Scales of a layer's outputs ``[g o]``, by layer name.
        consumers: Scales of a layer's input channels ``[g i]``, by layer name.
        norms_before: Scales of the channels ``[c]`` that a BatchNormalization or LayerNormalization writes, by its
            name.
        norms_after: Scales of the channels ``[c]`` that a BatchNormalization reads, by its name.
        shifts: Constants that are added to the channels.
        tensors: The activations. Their ``ids`` are scales rather than wires.
    """

    size: int
    producers: Mapping[str, Indices] = field(default_factory=dict)
    consumers: Mapping[str, Indices] = field(default_factory=dict)
    norms_before: Mapping[str, Indices] = field(default_factory=dict)
    norms_after: Mapping[str, Indices] = field(default_factory=dict)
    shifts: tuple[Shift, ...] = ()
    tensors: Mapping[str, Wires] = field(default_factory=dict)


@dataclass(frozen=True)
class ScaleGroups:
    """All groups of a graph.

    Attributes:
        groups: The groups, in the graph's order of the nodes that write their channels.
        inputs: Why no input channel of a layer can be scaled, by layer name.
        outputs: Why no output of a layer can be scaled, by layer name.
    """

    groups: tuple[ScaleGroup, ...]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def input_channels(layer: Linear) -> int:
    """Return the number of input channels of all groups of a layer."""
    groups, _, k = layer.matrix_shape
    return groups * k // int(np.prod(layer.kernel, dtype=np.int64))


def scale_groups(model: Model) -> ScaleGroups:
    """Find the scale groups of a sorted graph whose nodes have unique names.

    Raises:
        QuantizationError: Activation grids were already chosen. Rescaling would make them wrong.
        ModelError: The shapes of the graph contradict each other.
    """
    if model.activation_qparams:
        raise QuantizationError(
            "channels cannot be scaled after activation grids are set; put the pass before activation_ranges"
        )
    members = _Members(Ties(infer_shapes(model.graph)))
    for tensor in model.graph.inputs:
        members.ties.read(tensor, f"{tensor.name} is an input of the model")
    for node in model.graph.nodes:
        if node.op in LINEAR_OPS:
            _add_layer(members, model, node)
        elif node.op == "BatchNormalization":
            _add_norm(members, model.graph, node)
        elif node.op == "LayerNormalization":
            _add_layer_norm(members, model.graph, node)
        else:
            tie(members.ties, node)
    for tensor in model.graph.outputs:
        if wires := members.ties.read(tensor):
            members.ties.fix(wires.ids, f"{tensor.name} is an output of the model")
    return members.resolved()


@dataclass
class _Members:
    """Wires that each node writes and reads, by node name."""

    ties: Ties
    producers: dict[str, Indices] = field(default_factory=dict)
    consumers: dict[str, Indices] = field(default_factory=dict)
    norms_before: dict[str, Indices] = field(default_factory=dict)
    norms_after: dict[str, Indices] = field(default_factory=dict)

    def resolved(self) -> ScaleGroups:
        """Convert wires to scales. The free scales of every component are numbered from 0."""
        component = connected(self.ties)
        sides = (self.producers, self.consumers, self.norms_before, self.norms_after)
        numbers: dict[int, dict[int, int]] = {}  # by component: number of each root
        sides_of: dict[int, list[dict[str, Indices]]] = {}
        reasons: tuple[dict[str, str], ...] = ({}, {}, {}, {})

        def scales_of(ids: Indices) -> tuple[int, Indices] | None:
            roots = [self.ties.root(wire) for wire in ids.tolist()]
            free = [root for root in roots if self.ties.reason(root) is None]
            if not free:
                return None
            key = component.root(free[0])
            known = numbers.setdefault(key, {})
            indices = [-1 if self.ties.reason(root) else known.setdefault(root, len(known)) for root in roots]
            return key, np.array(indices)

        for side, members in enumerate(sides):
            for name, ids in members.items():
                scales = scales_of(ids)
                if scales is None:
                    reasons[side][name] = self.ties.reason(ids[0]) or ""
                else:
                    sides_of.setdefault(scales[0], [{}, {}, {}, {}])[side][name] = scales[1]
        shifts: dict[int, list[Shift]] = {}
        for shift in self.ties.shifts:
            scales = scales_of(shift.ids)
            if scales is not None:
                shifts.setdefault(scales[0], []).append(Shift(shift.node, shift.index, scales[1], shift.from_right))
        tensors: dict[int, dict[str, Wires]] = {}
        for name, wires in self.ties.wires.items():
            scales = scales_of(wires.ids)
            if scales is not None:
                tensors.setdefault(scales[0], {})[name] = Wires(scales[1], wires.axis, wires.rank)
        groups = []
        for key, (producers, consumers, before, after) in sides_of.items():
            if not consumers and not after:
                reasons[0].update(dict.fromkeys(producers, "no layer reads its channels one by one"))
                continue
            size, group_shifts = len(numbers[key]), tuple(shifts.get(key, ()))
            groups.append(ScaleGroup(size, producers, consumers, before, after, group_shifts, tensors[key]))
        return ScaleGroups(tuple(groups), inputs=reasons[1], outputs=reasons[0])


def connected(ties: Ties) -> Ties:
    """Return a union-find over the same wires that also ties all free wires of each tensor."""
    component = Ties({})
    component.fresh(ties.count)
    component.join(np.arange(ties.count), np.array([ties.root(wire) for wire in range(ties.count)], np.intp))
    for wires in ties.wires.values():
        free = np.array([wire for wire in wires.ids.tolist() if ties.reason(wire) is None], np.intp)
        component.join(free[:-1], free[1:])
    return component


def _why_fixed(graph: gs.Graph, node: gs.Node) -> str | None:
    """Return why a node's constants cannot be rescaled, or None if they can."""
    for tensor in node.inputs[1:]:
        if not tensor.name:
            continue
        if not isinstance(tensor, gs.Constant):
            return f"its operand {tensor.name} is not a constant"
        if sole_consumer(graph, tensor) is not node:
            return f"it shares {tensor.name} with another node"
    return None


def _add_layer(members: _Members, model: Model, node: gs.Node) -> None:
    ties = members.ties
    if reason := why_not_linear(node):
        ties.fix_node(node, f"{node.name} ({node.op}): {reason}")
        return
    layer = find_linear(node)
    source = ties.read(node.inputs[0])
    outputs = ties.fresh(layer.outputs)
    rank = len(layer.weight_shape) if layer.op != "MatMul" or source is None else source.rank
    axis = 1 if layer.kernel else rank - 1
    members.producers[layer.name] = outputs
    if layer.op != "MatMul" or source is not None:
        ties.write(node.outputs[0], outputs, axis, rank)
    reason = "it is quantized already" if layer.name in model.quantized else _why_fixed(model.graph, node)
    if reason is not None:
        ties.fix(outputs, f"{node.name} ({node.op}): {reason}")
    elif source is not None and source.axis == axis and len(source.ids) == input_channels(layer):
        members.consumers[layer.name] = source.ids
        return
    members.consumers[layer.name] = ties.fresh(input_channels(layer))
    if source is not None:
        reason = reason or ties.reason(source.ids[0]) or "it does not multiply its input's channels one by one"
        ties.fix(source.ids, f"{node.name} ({node.op}): {reason}")
    ties.fix(members.consumers[layer.name], f"{node.name} ({node.op}): {reason or 'its input has unknown channels'}")


def _add_norm(members: _Members, graph: gs.Graph, node: gs.Node) -> None:
    """Add a BatchNormalization. It is linear in each channel if its statistics are constants."""
    ties, source = members.ties, members.ties.read(node.inputs[0])
    reason = "it is in training mode" if node.attrs.get("training_mode", 0) else _why_fixed(graph, node)
    if reason is None and (source is None or source.axis != 1):
        reason = "its channels are not known"
    if reason is not None or source is None:
        ties.fix_node(node, f"{node.name} ({node.op}): {reason}")
        return
    members.norms_after[str(node.name)] = source.ids
    members.norms_before[str(node.name)] = ties.fresh(len(source.ids))
    ties.write(node.outputs[0], members.norms_before[str(node.name)], 1, source.rank)


def _add_layer_norm(members: _Members, graph: gs.Graph, node: gs.Node) -> None:
    """Add a LayerNormalization over the last axis. Its scale and bias take any scale, and its input's is fixed.

    SmoothQuant and AWQ fold their factors there in transformers (Xiao et al. 2023, arXiv:2211.10438, section 4).
    """
    ties = members.ties
    rank, count = len(ties.shapes.get(str(node.outputs[0].name), ())), np.size(getattr(node.inputs[1], "values", ()))
    reason = _why_fixed(graph, node)
    if rank == 0 or node.attrs.get("axis", -1) % rank != rank - 1:
        reason = "it normalizes over several axes, or over axes that are not known"
    if reason is not None or any(output.name for output in node.outputs[1:]):
        ties.fix_node(node, f"{node.name} ({node.op}): {reason or 'it also writes means or deviations'}")
        return
    source = ties.read(node.inputs[0])
    if source is not None:
        ties.fix(source.ids, f"{node.name} ({node.op}): it normalizes over the channels")
    members.norms_before[str(node.name)] = ties.fresh(count)
    ties.write(node.outputs[0], members.norms_before[str(node.name)], rank - 1, rank)
