"""Fill depthwise convolutions up to whole blocks of channels, for which the integer kernels are made.

onnxruntime's depthwise kernel on integers computes 16 channels at once. A layer of 116 channels takes 2.6 times as long
as one of 128. So the convolutions before it write more channels, and the convolutions behind it read them with weights
of 0. What the new channels hold does not matter, and all others stay as they are.
"""

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.integer_forms.channelwise import acts_by_channel, is_depthwise, settled_tensors
from passes.graph.integer_forms.geometry import convolution
from passes.graph.normalise.shapes import Shapes
from passes.ir.linear import Linear, linear_layers
from passes.ir.rules import Rules
from passes.ir.surgery import is_default_domain, set_constant, sole_consumer
from passes.numerics.kernel_times import BLOCK, KernelTimes

__all__ = ["fill_depthwise_blocks"]

_LEAST = 5e3  # ns that the filled layers must save together
_OF_TWO = frozenset({"Add", "Mul"})


def fill_depthwise_blocks(graph: gs.Graph, rules: Rules, shapes: Shapes, layers: frozenset[str]) -> list[str]:
    """Add channels to depthwise convolutions whose number of channels is no multiple of 16.

    Args:
        graph: The graph.
        rules: Rules of the target. Without times of its kernels nothing changes.
        shapes: Shapes of the graph's tensors.
        layers: Layers that may run on integers.

    Returns:
        A line for each layer.
    """
    if rules.times is None:
        return []
    known, notes = linear_layers(graph), []
    settled, done = settled_tensors(graph), set[str]()
    for node in list(graph.nodes):
        layer = known.get(node.name)
        if layer is None or node.name not in layers or node.name in done or not _unfilled(layer):
            continue
        region = _Region(graph, known, settled, shapes, layer.outputs)
        if region.reach(node) and region.saved(rules.times, layers) >= _LEAST:
            added = -layer.outputs % BLOCK
            region.fill(added)
            done.update(region.depthwise)
            filled = layer.outputs + added
            notes += [f"{name}: {layer.outputs} channels filled up to {filled}" for name in region.depthwise]
    return notes


def _unfilled(layer: Linear) -> bool:
    return is_depthwise(layer) and layer.outputs % BLOCK > 0


@dataclass
class _Region:
    """Tensors that get the same new channels, and the convolutions that write and read them.

    Attributes:
        graph: The graph.
        known: The graph's linear layers.
        settled: Names of tensors that must stay as they are.
        shapes: Shapes of the graph's tensors.
        channels: Number of channels of all these tensors.
        tensors: The tensors, by name.
        depthwise: Depthwise convolutions, by name.
        writers: Convolutions of one group that write such a tensor, by name.
        readers: Convolutions of one group that read such a tensor, by name.
    """

    graph: gs.Graph
    known: dict[str, Linear]
    settled: set[str]
    shapes: Shapes
    channels: int
    tensors: dict[str, gs.Variable] = field(default_factory=dict)
    depthwise: dict[str, gs.Node] = field(default_factory=dict)
    writers: dict[str, gs.Node] = field(default_factory=dict)
    readers: dict[str, gs.Node] = field(default_factory=dict)

    def reach(self, start: gs.Node) -> bool:
        """Collect all tensors that need the new channels. False: one of them cannot have them."""
        left = [start.inputs[0]]
        while left:
            tensor = left.pop()
            if tensor.name in self.tensors:
                continue
            self.tensors[tensor.name] = tensor
            if tensor.name in self.settled or len(tensor.inputs) != 1:
                return False
            for node, writes in ((tensor.inputs[0], True), *((reader, False) for reader in tensor.outputs)):
                more = self.beyond(node, tensor, writes=writes)
                if more is None:
                    return False
                left += more
        return all(self.owns(node) for node in (self.depthwise | self.writers | self.readers).values())

    def beyond(self, node: gs.Node, tensor: gs.Tensor, *, writes: bool) -> list[gs.Tensor] | None:
        """Return the other tensors of a node that need the new channels too. None: the node cannot have them."""
        if not is_default_domain(node) or node.outputs[0].name == "" or len(node.outputs) > 1:
            return None
        layer = self.known.get(node.name)
        if layer is not None:
            return self.at_layer(node, layer, tensor, writes=writes)
        if acts_by_channel(node):
            return [node.inputs[0], node.outputs[0]]
        if node.op in _OF_TWO and self.channels_meet(node):
            return [*node.inputs, node.outputs[0]]
        return None

    def channels_meet(self, node: gs.Node) -> bool:
        """Whether the channels of all inputs lie on one axis. With fewer axes, an input has them on another."""
        shapes = [self.shapes.get(each.name, ()) for each in node.inputs if isinstance(each, gs.Variable)]
        ranks = {len(shape) for shape in shapes}
        whole = len(shapes) == len(node.inputs) and len(ranks) == 1
        return whole and all(shape[1:2] == (self.channels,) for shape in shapes)

    def at_layer(self, node: gs.Node, layer: Linear, tensor: gs.Tensor, *, writes: bool) -> list[gs.Tensor] | None:
        if layer.op != "Conv" or any(other is tensor for other in node.inputs[1:]):
            return None
        if is_depthwise(layer) and layer.outputs == self.channels:
            self.depthwise[node.name] = node
            return [node.inputs[0], node.outputs[0]]
        if layer.groups > 1 or (layer.outputs if writes else layer.inputs) != self.channels:
            return None
        (self.writers if writes else self.readers)[node.name] = node
        return []

    def owns(self, node: gs.Node) -> bool:
        """Whether no other node reads the constants of a layer."""
        return all(sole_consumer(self.graph, each) is node for each in node.inputs[1:] if isinstance(each, gs.Constant))

    def saved(self, times: KernelTimes, layers: frozenset[str]) -> float:
        """Return the nanoseconds that the filled layers save, without what the other convolutions lose."""
        total, added = 0.0, -self.channels % BLOCK
        for name in self.depthwise.keys() | self.writers.keys() | self.readers.keys():
            if name not in layers:
                continue
            layer = self.known[name]
            old = convolution(layer, self.shapes)
            new = dataclasses.replace(
                old,
                groups=old.groups + (added if name in self.depthwise else 0),
                inputs=old.inputs + (added if name in self.readers else 0),
                outputs=old.outputs + (added if name in self.writers else 0),
            )
            total += times.integer_time(old) - times.integer_time(new)
        return total

    def fill(self, added: int) -> None:
        """Add channels, all with weights and biases of 0."""
        for tensor in self.tensors.values():
            tensor.shape = None  # it is inferred again
        for node in self.depthwise.values():
            _append(self.graph, node, 1, 0, added)
            _append(self.graph, node, 2, 0, added)
            node.attrs["group"] = self.channels + added
        for node in self.writers.values():
            _append(self.graph, node, 1, 0, added)
            _append(self.graph, node, 2, 0, added)
        for node in self.readers.values():
            _append(self.graph, node, 1, 1, added)


def _append(graph: gs.Graph, node: gs.Node, index: int, axis: int, added: int) -> None:
    """Append zeros to a constant input along an axis. An input that is left out stays so."""
    if len(node.inputs) <= index or not isinstance(node.inputs[index], gs.Constant):
        return
    constant = node.inputs[index]
    values = np.asarray(constant.values)
    shape = [*values.shape[:axis], added, *values.shape[axis + 1 :]]
    set_constant(graph, node, index, np.concatenate([values, np.zeros(shape, values.dtype)], axis), constant.name)
