"""Operators that only move whole channels, and where every channel comes from.

Such a part of a graph is made of Concat and Split along the channels, and of channel shuffles: a Reshape that cuts the
channels into groups, a Transpose of these, and a Reshape back (Zhang et al. 2018, arXiv:1707.01083, §3.1).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from passes.graph.normalise.shapes import Shapes
from passes.ir.surgery import is_default_domain

__all__ = ["Channels", "Moves", "channel_moves"]

Channels = NDArray[np.intp]


@dataclass
class Moves:
    """A connected part of a graph that only moves channels.

    Attributes:
        nodes: Its nodes, in the graph's order.
        sources: Tensors that its nodes read and do not write, by name.
        tensors: All of its tensors, by name.
        channels: The number of every channel of every tensor, by name. Channels of the sources are counted in turn.
    """

    nodes: list[gs.Node] = field(default_factory=list)
    sources: dict[str, gs.Tensor] = field(default_factory=dict)
    tensors: dict[str, gs.Tensor] = field(default_factory=dict)
    channels: dict[str, Channels] = field(default_factory=dict)

    @property
    def shuffles(self) -> bool:
        """Whether channels change their places by more than Concat and Split."""
        return any(node.op == "Transpose" for node in self.nodes)


def channel_moves(graph: gs.Graph, shapes: Shapes) -> list[Moves]:
    """Return all connected parts of the graph that only move channels. The graph is sorted."""
    trace = _Trace(shapes)
    for node in graph.nodes:
        trace.follow(node)
    return trace.parts()


class _Trace:
    """Channels of tensors, numbered over the whole graph, and the nodes that move them."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.channels: dict[str, Channels] = {}  # [c], or [g, c] between the two Reshapes of a shuffle
        self.spatial: dict[str, int] = {}  # number of spatial dimensions
        self.sources: dict[str, gs.Tensor] = {}
        self.nodes: list[gs.Node] = []
        self.count = 0

    def follow(self, node: gs.Node) -> None:
        """Take a node in if it only moves channels."""
        if node.op not in _RULES or not is_default_domain(node):
            return
        moved = [each for each in node.inputs if isinstance(each, gs.Variable) and each.name]
        if node.op != "Concat":
            moved = moved[:1]
        new = [tensor for tensor in moved if tensor.name not in self.channels]
        if not moved or len({id(tensor) for tensor in moved}) < len(moved) or not all(map(self.start, new)):
            self.forget(new)
            return
        spatial = {self.spatial[tensor.name] for tensor in moved}
        results = _RULES[node.op](self, node, spatial.pop()) if len(spatial) == 1 else None
        if results is None or len(results) != len(node.outputs):
            self.forget(new)
            return
        self.nodes.append(node)
        self.sources |= {tensor.name: tensor for tensor in new}
        for tensor, channels in zip(node.outputs, results, strict=True):
            self.channels[tensor.name] = channels
            self.spatial[tensor.name] = self.spatial[moved[0].name]

    def start(self, tensor: gs.Tensor) -> bool:
        """Number the channels of a tensor that no move has written."""
        shape = self.shapes.get(tensor.name, ())
        if len(shape) < 3 or not isinstance(shape[1], int):
            return False
        self.channels[tensor.name] = np.arange(self.count, self.count + shape[1])
        self.spatial[tensor.name] = len(shape) - 2
        self.count += shape[1]
        return True

    def forget(self, tensors: list[gs.Tensor]) -> None:
        for tensor in tensors:
            self.channels.pop(tensor.name, None)

    def concat(self, node: gs.Node, spatial: int) -> list[Channels] | None:
        parts = [self.channels.get(tensor.name) for tensor in node.inputs]
        if node.attrs.get("axis") not in {1, -1 - spatial} or any(part is None or part.ndim > 1 for part in parts):
            return None
        return [np.concatenate([part for part in parts if part is not None])]

    def split(self, node: gs.Node, spatial: int) -> list[Channels] | None:
        channels = self.channels[node.inputs[0].name]
        sizes = [self.shapes.get(tensor.name, (None, None))[1] for tensor in node.outputs]
        if node.attrs.get("axis", 0) not in {1, -1 - spatial} or channels.ndim > 1:
            return None
        known = [size for size in sizes if isinstance(size, int)]
        if len(known) < len(sizes) or sum(known) != len(channels):
            return None
        return np.split(channels, np.cumsum(known)[:-1])

    def reshape(self, node: gs.Node, spatial: int) -> list[Channels] | None:
        channels = self.channels[node.inputs[0].name]
        before, after = self.shapes.get(node.inputs[0].name, ()), self.shapes.get(node.outputs[0].name, ())
        groups = after[1 : len(after) - spatial]
        if before[len(before) - spatial :] != after[len(after) - spatial :] or None in after[len(after) - spatial :]:
            return None
        sizes = [size for size in groups if isinstance(size, int)]
        if not sizes or len(sizes) < len(groups) or np.prod(sizes) != channels.size:
            return None
        return [channels.reshape(sizes)]

    def transpose(self, node: gs.Node, spatial: int) -> list[Channels] | None:
        channels, order = self.channels[node.inputs[0].name], list(node.attrs.get("perm", []))
        rank = 1 + channels.ndim + spatial
        kept = [0, *range(1 + channels.ndim, rank)]
        if len(order) != rank or any(order[axis] != axis for axis in kept):
            return None
        return [channels.transpose([axis - 1 for axis in order[1 : 1 + channels.ndim]])]

    def parts(self) -> list[Moves]:
        """Return the nodes that share tensors together."""
        found: list[Moves] = []
        for node in self.nodes:
            own = {tensor.name: tensor for tensor in _moved(node, self.channels)}
            part = Moves()
            for other in [other for other in found if not own.keys().isdisjoint(other.tensors)]:
                found.remove(other)
                part.nodes += other.nodes
                part.tensors |= other.tensors
            part.nodes.append(node)
            part.tensors |= own
            found.append(part)
        for part in found:
            part.sources = {name: each for name, each in part.tensors.items() if name in self.sources}
            part.channels = {name: self.channels[name] for name in part.tensors}
        return found


def _moved(node: gs.Node, channels: dict[str, Channels]) -> Iterator[gs.Tensor]:
    for tensor in [*node.inputs, *node.outputs]:
        if isinstance(tensor, gs.Variable) and tensor.name in channels:
            yield tensor


_RULES = {"Concat": _Trace.concat, "Split": _Trace.split, "Reshape": _Trace.reshape, "Transpose": _Trace.transpose}
