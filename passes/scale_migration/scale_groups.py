"""Where a per-channel scale can be moved from one layer's inputs into the layers before, and where not.

A `ScaleGroup` is a connected component of channels: all layers that write or read activations whose scales are tied,
through the operators between them and through residual Adds. Its ``size`` free scales can be chosen at will, and the
network computes the same once `passes.scale_migration.rescale` has multiplied the producers' outputs and divided the consumers' inputs.
Every layer input and output that is in no group has a reason.
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

__all__ = ["ScaleGroup", "ScaleGroups", "input_channels", "scale_groups"]


@dataclass(frozen=True)
class ScaleGroup:
    """Layers around activations whose channels share ``size`` free scales.

    The arrays give each channel the index of its scale, or -1 where its scale stays 1.

    Attributes:
        size: number of free scales.
        producers: by layer, of its outputs ``[g o]``.
        consumers: by layer, of its input channels.
        norms_before, norms_after: the same for BatchNormalization, which writes or reads the channels ``[c]``.
        shifts: constants added to the channels.
        tensors: the activations themselves, their scales in place of wires.
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
        groups: in the graph's order of what writes their channels.
        inputs: why no input channel of a layer can be scaled, by layer.
        outputs: why no output of a layer can be scaled, by layer.
    """

    groups: tuple[ScaleGroup, ...]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def input_channels(layer: Linear) -> int:
    """Input channels of all groups."""
    groups, _, k = layer.matrix_shape
    return groups * k // int(np.prod(layer.kernel, dtype=np.int64))


def scale_groups(model: Model) -> ScaleGroups:
    """Analyse a sorted graph whose nodes have unique names.

    Raises:
        QuantizationError: activation grids have been chosen already; they would no longer hold.
    """
    if model.activation_qparams:
        raise QuantizationError("scales cannot be moved once activation_ranges has run; put the pass before it")
    members = _Members(Ties(infer_shapes(model.graph)))
    for tensor in model.graph.inputs:
        members.ties.read(tensor, f"{tensor.name} is an input of the model")
    for node in model.graph.nodes:
        if node.op in LINEAR_OPS:
            _add_layer(members, model, node)
        elif node.op == "BatchNormalization":
            _add_norm(members, model.graph, node)
        else:
            tie(members.ties, node)
    for tensor in model.graph.outputs:
        if wires := members.ties.read(tensor):
            members.ties.fix(wires.ids, f"{tensor.name} is an output of the model")
    return members.resolved()


@dataclass
class _Members:
    """What writes and reads wires, by node name."""

    ties: Ties
    producers: dict[str, Indices] = field(default_factory=dict)
    consumers: dict[str, Indices] = field(default_factory=dict)
    norms_before: dict[str, Indices] = field(default_factory=dict)
    norms_after: dict[str, Indices] = field(default_factory=dict)

    def resolved(self) -> ScaleGroups:
        """Wires to scales: the free ones of every component numbered from 0."""
        component = _components(self.ties)
        sides = (self.producers, self.consumers, self.norms_before, self.norms_after)
        numbers: dict[int, dict[int, int]] = {}  # of a component's roots
        found: dict[int, list[dict[str, Indices]]] = {}
        reasons: tuple[dict[str, str], ...] = ({}, {}, {}, {})

        def scales_of(ids: Indices) -> tuple[int, Indices] | None:
            roots = [self.ties.root(wire) for wire in ids.tolist()]
            free = [root for root in roots if self.ties.reason(root) is None]
            if not free:
                return None
            own = component.root(free[0])
            known = numbers.setdefault(own, {})
            indices = [-1 if self.ties.reason(root) else known.setdefault(root, len(known)) for root in roots]
            return own, np.array(indices)

        for side, members in enumerate(sides):
            for name, ids in members.items():
                place = scales_of(ids)
                if place is None:
                    reasons[side][name] = self.ties.reason(ids[0]) or ""
                else:
                    found.setdefault(place[0], [{}, {}, {}, {}])[side][name] = place[1]
        shifts: dict[int, list[Shift]] = {}
        for shift in self.ties.shifts:
            place = scales_of(shift.ids)
            if place is not None:
                shifts.setdefault(place[0], []).append(Shift(shift.node, shift.index, place[1], shift.from_right))
        tensors: dict[int, dict[str, Wires]] = {}
        for name, wires in self.ties.wires.items():
            place = scales_of(wires.ids)
            if place is not None:
                tensors.setdefault(place[0], {})[name] = Wires(place[1], wires.axis, wires.rank)
        groups = []
        for own, (producers, consumers, before, after) in found.items():
            if not consumers and not after:
                reasons[0].update(dict.fromkeys(producers, "no layer reads its channels one by one"))
                continue
            size, own_shifts = len(numbers[own]), tuple(shifts.get(own, ()))
            groups.append(ScaleGroup(size, producers, consumers, before, after, own_shifts, tensors[own]))
        return ScaleGroups(tuple(groups), inputs=reasons[1], outputs=reasons[0])


def _components(ties: Ties) -> Ties:
    """Union-find over the same wires in which all free wires of one tensor are tied as well."""
    component = Ties({})
    component.fresh(ties.count)
    component.join(np.arange(ties.count), np.array([ties.root(wire) for wire in range(ties.count)], np.intp))
    for wires in ties.wires.values():
        free = np.array([wire for wire in wires.ids.tolist() if ties.reason(wire) is None], np.intp)
        component.join(free[:-1], free[1:])
    return component


def _why_fixed(graph: gs.Graph, node: gs.Node) -> str | None:
    """Why a node's constants cannot take a scale."""
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
        ties.block_size(node, f"{node.name} ({node.op}): {reason}")
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
    """BatchNormalization is linear, channel by channel, once its statistics are constants."""
    ties, source = members.ties, members.ties.read(node.inputs[0])
    reason = "it is in training mode" if node.attrs.get("training_mode", 0) else _why_fixed(graph, node)
    if reason is None and (source is None or source.axis != 1):
        reason = "its channels are not known"
    if reason is not None or source is None:
        ties.block_size(node, f"{node.name} ({node.op}): {reason}")
        return
    members.norms_after[str(node.name)] = source.ids
    members.norms_before[str(node.name)] = ties.fresh(len(source.ids))
    ties.write(node.outputs[0], members.norms_before[str(node.name)], 1, source.rank)
