"""Route channels without shuffles: every convolution writes its channels in the order in which they are needed.

onnxruntime's integer convolutions have the channels last. A channel shuffle has them first, so that there are two more
Transposes around each, and a Split behind it copies once more. But the order of channels is free where convolutions
write and read them: their weights can be sorted. A source's channels are sorted by who reads them. So each reader gets
whole blocks, one Split cuts each source, and one Concat makes what each reader reads. Channels that only make a number
of channels round, which kernels prefer, are new ones with weights of 0.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from passes.graph.integer_forms.channel_moves import Channels, Moves, channel_moves
from passes.graph.integer_forms.channelwise import acts_by_channel, is_depthwise, settled_tensors
from passes.graph.normalise.shapes import Shapes
from passes.ir.linear import linear_layers
from passes.ir.rules import Rules
from passes.ir.surgery import fresh_name, replace_input, set_constant, sole_consumer, tensor_names
from passes.numerics.kernel_times import BLOCK

__all__ = ["route_channels"]

_NEW = -1  # stands for a channel that was not there
_PARTS = 16  # most parts of a source. A Split into single channels would take longer than the shuffle
_ROUND = 4  # inputs that a kernel of 1x1 multiplies at once


def route_channels(graph: gs.Graph, rules: Rules, shapes: Shapes) -> list[str]:
    """Replace Concat, Split and channel shuffles between convolutions with one Split and one Concat each.

    Args:
        graph: The graph. It is sorted.
        rules: Rules of the target. Without times of its kernels nothing changes.
        shapes: Shapes of the graph's tensors.

    Returns:
        A line for each connected part that has a shuffle.
    """
    if rules.times is None or not {"Concat", "Split"} <= rules.compute | rules.moving or graph.opset < 13:
        return []
    notes = []
    for moves in channel_moves(graph, shapes):
        if not moves.shuffles:
            continue
        plan = _Plan(graph, moves).made()
        if plan is not None:
            names = [str(node.name) for node in moves.nodes if node.op == "Transpose"]
            plan.carry_out()
            notes.append(f"{', '.join(names)}: channels sorted in the weights around them instead")
    return notes


@dataclass(frozen=True)
class _Edit:
    """New order of the channels of a layer's constants: outputs (axis 0), inputs (axis 1), or both of a depthwise."""

    node: gs.Node
    kind: str
    order: Channels


@dataclass
class _Block:
    """Channels of one source that the same sinks read, in the order in which they are written."""

    source: str
    sinks: frozenset[str]
    channels: Channels
    free: bool
    tensor: gs.Tensor | None = None

    def add(self, count: int) -> None:
        """Add new channels, if the source can have them."""
        if self.free:
            self.channels = np.concatenate([self.channels, np.full(count, _NEW)])


class _Plan:
    """The new order of one part's channels, and what it does to the convolutions around it."""

    def __init__(self, graph: gs.Graph, moves: Moves) -> None:
        self.graph, self.moves = graph, moves
        self.layers = linear_layers(graph)
        self.settled = settled_tensors(graph)
        own = {id(node) for node in moves.nodes}
        self.readers = {
            name: [node for node in tensor.outputs if id(node) not in own] for name, tensor in moves.tensors.items()
        }
        self.sinks = [name for name in moves.tensors if self.readers[name]]
        self.blocks: dict[str, list[_Block]] = {}  # by source
        self.edits: list[_Edit] = []
        self.resized: list[gs.Tensor] = []  # tensors whose shapes are inferred again

    def made(self) -> "_Plan | None":
        """Return the plan, or None if the channels of a tensor must stay in their order."""
        numbers = self.moves.channels
        if not self.settled.isdisjoint(numbers) or any(numbers[sink].ndim > 1 for sink in self.sinks):
            return None
        if any(len(np.unique(numbers[sink])) < len(numbers[sink]) for sink in self.sinks):
            return None
        readers: dict[int, list[str]] = {}
        writers: dict[str, gs.Node] = {}
        for sink in self.sinks:
            for channel in numbers[sink].tolist():
                readers.setdefault(channel, []).append(sink)
        for name, tensor in self.moves.sources.items():
            if any(channel not in readers for channel in numbers[name].tolist()):
                return None
            writer = self.writer(tensor)
            self.blocks[name] = list(_blocks(name, numbers[name], readers, self.sinks, free=writer is not None))
            if len(self.blocks[name]) > _PARTS:
                return None
            if writer is not None:
                writers[name] = writer
        self.fill()
        for name, writer in writers.items():
            order = np.concatenate([block.channels for block in self.blocks[name]])
            self.edits.append(_Edit(writer, "outputs", _places(order, numbers[name])))
        for sink in self.sinks:
            order = _places(np.concatenate([block.channels for block in self.read(sink)]), numbers[sink])
            if not np.array_equal(order, np.arange(len(order))) and not self.sort_readers(self.readers[sink], order):
                return None
        edited = {id(edit.node): edit.node for edit in self.edits}.values()
        return self if all(map(self.owns, edited)) else None

    def read(self, sink: str) -> list[_Block]:
        """Return the blocks that a sink is made of."""
        return [block for blocks in self.blocks.values() for block in blocks if sink in block.sinks]

    def writer(self, tensor: gs.Tensor) -> gs.Node | None:
        """Return the convolution whose outputs can be sorted to sort a source."""
        node = tensor.inputs[0] if len(tensor.inputs) == 1 else None
        self.resized.append(tensor)
        while node is not None and acts_by_channel(node):
            tensor = node.inputs[0]
            self.resized.append(tensor)
            free = tensor.name not in self.settled and sole_consumer(self.graph, tensor) is node
            node = tensor.inputs[0] if free and len(tensor.inputs) == 1 else None
        layer = None if node is None else self.layers.get(node.name)
        return node if layer is not None and layer.op == "Conv" and layer.groups == 1 else None

    def fill(self) -> None:
        """Round the channels of every block up, and those of a sink that a depthwise layer reads."""
        for block in itertools.chain(*self.blocks.values()):
            block.add(-len(block.channels) % _ROUND)
        for sink in self.sinks:
            layers = [self.layers.get(node.name) for node in self.readers[sink]]
            own = [block for block in self.read(sink) if block.free and len(block.sinks) == 1]
            if own and any(layer is not None and is_depthwise(layer) for layer in layers):
                own[-1].add(-sum(len(block.channels) for block in self.read(sink)) % BLOCK)

    def sort_readers(self, readers: Iterable[gs.Node], order: Channels) -> bool:
        """Sort what reads a tensor. False: it needs the old order."""
        for node in readers:
            layer = self.layers.get(node.name)
            if layer is not None and layer.op == "Conv" and layer.groups == 1:
                self.edits.append(_Edit(node, "inputs", order))
                continue
            depthwise = layer is not None and is_depthwise(layer)
            if not depthwise and not acts_by_channel(node):
                return False
            if depthwise:
                self.edits.append(_Edit(node, "both", order))
            result = node.outputs[0]
            self.resized.append(result)
            if result.name in self.settled or not self.sort_readers(result.outputs, order):
                return False
        return True

    def owns(self, node: gs.Node) -> bool:
        """Whether no other node reads the constants of a layer, and each of its axes is sorted once."""
        kinds = [edit.kind for edit in self.edits if edit.node is node]
        constants = [each for each in node.inputs[1:] if isinstance(each, gs.Constant)]
        return len(set(kinds)) == len(kinds) and all(sole_consumer(self.graph, each) is node for each in constants)

    def carry_out(self) -> None:
        """Sort the weights, and connect the sources with the sinks."""
        tensors, names = tensor_names(self.graph), {node.name for node in self.graph.nodes}
        for edit in self.edits:
            _sort(self.graph, edit)
        for tensor in [*self.resized, *self.moves.tensors.values()]:
            if tensor.inputs:  # the shapes of the graph's inputs stay
                tensor.shape = None
        for node in self.moves.nodes:
            node.inputs.clear()
            node.outputs.clear()
        gone = {id(node) for node in self.moves.nodes}
        self.graph.nodes[:] = [node for node in self.graph.nodes if id(node) not in gone]
        for source, blocks in self.blocks.items():
            self.cut(self.moves.sources[source], blocks, tensors, names)
        for sink in self.sinks:
            if sink in self.moves.sources:
                continue
            tensor, parts = self.moves.tensors[sink], [block.tensor for block in self.read(sink)]
            if len(parts) > 1:
                name = fresh_name(f"{sink}.concat", names)
                self.graph.nodes.append(gs.Node("Concat", name, {"axis": 1}, inputs=parts, outputs=[tensor]))
                continue
            for node in self.readers[sink]:
                replace_input(node, tensor, parts[0])
        self.graph.toposort()

    def cut(self, source: gs.Tensor, blocks: Sequence[_Block], tensors: set[str], names: set[str]) -> None:
        """Give every block of a source a tensor."""
        if len(blocks) == 1:
            blocks[0].tensor = source
            return
        sizes = gs.Constant(fresh_name(f"{source.name}.sizes", tensors), np.array([len(b.channels) for b in blocks]))
        for index, block in enumerate(blocks):
            block.tensor = gs.Variable(fresh_name(f"{source.name}_part{index}", tensors), source.dtype)
        name = fresh_name(f"{source.name}.split", names)
        parts = [block.tensor for block in blocks]
        self.graph.nodes.append(gs.Node("Split", name, {"axis": 1}, inputs=[source, sizes], outputs=parts))


def _blocks(
    source: str, channels: Channels, readers: dict[int, list[str]], sinks: Sequence[str], *, free: bool
) -> Iterator[_Block]:
    """Cut a source where the sinks of its channels change."""
    keys = [tuple(sinks.index(sink) for sink in readers[channel]) for channel in channels.tolist()]
    places = list(range(len(keys)))
    if free:
        places.sort(key=lambda place: keys[place])  # equal channels stay in their order
    starts = [i for i in range(len(places)) if i == 0 or keys[places[i]] != keys[places[i - 1]]]
    for start, end in zip(starts, [*starts[1:], len(places)], strict=True):
        yield _Block(source, frozenset(sinks[i] for i in keys[places[start]]), channels[places[start:end]], free)


def _places(order: Channels, channels: Channels) -> Channels:
    """Return where the channels of an order were before."""
    before = {channel: place for place, channel in enumerate(channels.tolist())}
    return np.array([before.get(channel, _NEW) for channel in order.tolist()])


def _sort(graph: gs.Graph, edit: _Edit) -> None:
    node = edit.node
    for index, axis in ((1, 1),) if edit.kind == "inputs" else ((1, 0), (2, 0)):
        if len(node.inputs) > index and isinstance(node.inputs[index], gs.Constant):
            constant = node.inputs[index]
            set_constant(graph, node, index, _taken(np.asarray(constant.values), edit.order, axis), constant.name)
    if edit.kind == "both":
        node.attrs["group"] = len(edit.order)


def _taken(values: NDArray[np.generic], order: Channels, axis: int) -> NDArray[np.generic]:
    """Return the values in a new order, with zeros for new channels."""
    taken = np.take(values, np.maximum(order, 0), axis)
    shape = [1] * values.ndim
    shape[axis] = -1
    return np.where((order == _NEW).reshape(shape), np.zeros((), values.dtype), taken)
