"""Find channels that can be removed from a graph, and those that can only be removed together.

Every channel of every activation is a wire (`passes.scale_migration.scale_ties`). Layers tie nothing, except:

- a depthwise layer ties each output to its input;
- other layers with groups of inputs tie the same position of all groups, so that groups stay equally large.

Wires that are tied make up one channel of a group: they are removed together. A `ChannelGroup` is a connected component
of them. It has the layers that write its channels and those that read them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from passes.channels.channel_rules import tie_channels, why_shared
from passes.graph.normalise.shapes import infer_shapes
from passes.ir.linear import LINEAR_OPS, Linear, find_linear, why_not_linear
from passes.ir.model import Model
from passes.scale_migration.scale_groups import connected
from passes.scale_migration.scale_ties import Indices, Ties, Wires

__all__ = ["ChannelGroup", "ChannelGroups", "channel_groups", "input_channels_of", "is_depthwise"]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of which any can be removed, but one, and the layers around them.

    The arrays have the number of each channel in the group, or -1 for one that has to stay.

    Attributes:
        size: Number of channels.
        producers: Channels of a layer's outputs ``[g o]``, by layer name.
        consumers: Channels of a layer's input channels ``[g i]``, by layer name.
        tensors: Channels of the activations, by tensor name.
        readers: Names of the layers that mix the channels: all consumers that are not depthwise.
    """

    size: int
    producers: Mapping[str, Indices] = field(default_factory=dict)
    consumers: Mapping[str, Indices] = field(default_factory=dict)
    tensors: Mapping[str, Wires] = field(default_factory=dict)
    readers: tuple[str, ...] = ()

    def removable(self, order: Indices, fewest: int = 1) -> Indices:
        """Return the channels of an order that can go one after the other, so that no tensor gets too few.

        Args:
            order: Channels in the order in which they go.
            fewest: Least number of channels of every tensor. Smaller tensors keep what they have.
        """
        sets = {wires.ids.tobytes(): wires.ids for wires in self.tensors.values()}
        counts = [np.bincount(ids[ids >= 0], minlength=self.size) for ids in sets.values()]  # by channel
        left = [len(ids) for ids in sets.values()]
        taken = []
        for channel in order.tolist():
            if all(
                count - each[channel] >= fewest or not each[channel] for count, each in zip(left, counts, strict=True)
            ):
                left = [count - int(each[channel]) for count, each in zip(left, counts, strict=True)]
                taken.append(channel)
        return np.array(taken, np.intp)

    @property
    def name(self) -> str:
        """Name of the first layer that writes the channels."""
        return next(iter(self.producers))


@dataclass(frozen=True)
class ChannelGroups:
    """All groups of a graph.

    Attributes:
        groups: The groups, in the graph's order of the nodes that write their channels.
        outputs: Why no output of a layer can be removed, by layer name.
        inputs: Why no input channel of a layer can be removed, by layer name.
    """

    groups: tuple[ChannelGroup, ...]
    outputs: Mapping[str, str]
    inputs: Mapping[str, str]

    def by_name(self) -> dict[str, ChannelGroup]:
        """Return the groups by the names of all layers that write their channels."""
        return {name: group for group in self.groups for name in group.producers}


def channel_groups(model: Model) -> ChannelGroups:
    """Find the groups of a sorted graph whose nodes have unique names.

    Raises:
        ModelError: The shapes of the graph contradict each other.
    """
    ties = Ties(infer_shapes(model.graph))
    sides: tuple[dict[str, Indices], dict[str, Indices]] = ({}, {})
    for tensor in model.graph.inputs:
        ties.read(tensor, f"{tensor.name} is an input of the model")
    for node in model.graph.nodes:
        if node.op in LINEAR_OPS:
            _add_layer(ties, *sides, model, node)
        else:
            tie_channels(ties, node)
    for tensor in model.graph.outputs:
        if wires := ties.read(tensor):
            ties.fix(wires.ids, f"{tensor.name} is an output of the model")
    mixing = frozenset(name for name, layer in model.layers().items() if not is_depthwise(layer))
    return _resolved(ties, *sides, mixing)


def is_depthwise(layer: Linear) -> bool:
    """Return whether each output of a layer reads one input channel alone."""
    return layer.groups > 1 and layer.inputs == layer.groups


def input_channels_of(layer: Linear, values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return values of the input channels ``[g i]`` for each input of a layer's rows, ``[g, k]``."""
    groups, _, k = layer.matrix_shape
    return np.repeat(values.reshape(groups, -1), k * groups // layer.inputs, axis=1)


def _add_layer(
    ties: Ties, producers: dict[str, Indices], consumers: dict[str, Indices], model: Model, node: gs.Node
) -> None:
    if reason := why_not_linear(node):
        ties.fix_node(node, f"{node.name} ({node.op}): {reason}")
        return
    layer = find_linear(node)
    source = ties.read(node.inputs[0])
    rank = len(layer.weight_shape) if layer.kernel or source is None else source.rank
    axis = 1 if layer.kernel else rank - 1
    known = source is not None and source.axis == axis and len(source.ids) == layer.inputs
    groups, outputs, _ = layer.matrix_shape
    inputs = source.ids if known and source is not None else ties.fresh(layer.inputs)
    if is_depthwise(layer):
        written = np.repeat(inputs, outputs)
    else:
        written = np.tile(ties.fresh(outputs), groups)
        for group in inputs.reshape(groups, -1)[1:]:
            ties.join(inputs.reshape(groups, -1)[0], group)
    producers[layer.name], consumers[layer.name] = written, inputs
    if layer.kernel or source is not None:
        ties.write(node.outputs[0], written, axis, rank)
    reason = "it is quantized already" if layer.name in model.quantized else why_shared(model.graph, node)
    if reason is not None:
        for ids in (inputs, written):
            ties.fix(ids, f"{node.name} ({node.op}): {reason}")
    if not known:
        why = "its input has unknown channels" if source is None else "it does not read its input's channels one by one"
        for ids in (inputs, *([] if source is None else [source.ids])):
            ties.fix(ids, f"{node.name} ({node.op}): {why}")


def _resolved(
    ties: Ties, producers: dict[str, Indices], consumers: dict[str, Indices], mixing: frozenset[str]
) -> ChannelGroups:
    """Convert wires to channels of groups, which are numbered from 0. Layers in ``mixing`` are not depthwise."""
    component = connected(ties)
    numbers: dict[int, dict[int, int]] = {}  # by component: number of each root
    found: dict[int, tuple[dict[str, Indices], dict[str, Indices]]] = {}

    def channels_of(ids: Indices) -> tuple[int, Indices] | None:
        roots = [ties.root(wire) for wire in ids.tolist()]
        free = [root for root in roots if ties.reason(root) is None]
        if not free:
            return None
        key = component.root(free[0])
        known = numbers.setdefault(key, {})
        return key, np.array([-1 if ties.reason(root) else known.setdefault(root, len(known)) for root in roots])

    reasons: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for side, members in enumerate((producers, consumers)):
        for name, ids in members.items():
            channels = channels_of(ids)
            if channels is None:
                reasons[side][name] = ties.reason(ids[0]) or ""
            else:
                found.setdefault(channels[0], ({}, {}))[side][name] = channels[1]
    tensors: dict[int, dict[str, Wires]] = {key: {} for key in found}
    for name, wires in ties.wires.items():
        channels = channels_of(wires.ids)
        if channels is not None and channels[0] in found:
            tensors[channels[0]][name] = Wires(channels[1], wires.axis, wires.rank)
    groups = []
    for key, (written, read) in found.items():
        readers = tuple(name for name in read if name in mixing)
        group = ChannelGroup(len(numbers[key]), written, read, tensors[key], readers)
        if not written:
            reasons[1].update(dict.fromkeys(read, "no layer writes its input"))
        elif not group.readers:
            reasons[0].update(dict.fromkeys(written, "no layer mixes its outputs"))
        elif group.size == 1:
            reasons[0].update(dict.fromkeys(written, "its outputs can only be removed together"))
        else:
            groups.append(group)
    return ChannelGroups(tuple(groups), reasons[0], reasons[1])
