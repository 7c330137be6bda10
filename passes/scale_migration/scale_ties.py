"""A union-find of the channels that must share a scale.

Every channel of every activation is a *wire*, which has a number. Wires that can only be scaled together are tied. A
wire whose scale has to be 1 is fixed, with a reason. `passes.scale_migration.scale_rules` has the rule of every
operator.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from passes.graph.normalise.shapes import Shapes

__all__ = ["Indices", "Shift", "Ties", "Wires", "activations"]

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Wires:
    """The channels of one activation tensor.

    Attributes:
        ids: Wire of each channel, ``[c]``.
        axis: Axis of the channels.
        rank: Number of axes of the tensor.
    """

    ids: Indices
    axis: int
    rank: int

    @property
    def from_right(self) -> int:
        """Channel axis counted from the last axis, which is -1."""
        return self.axis - self.rank


@dataclass(frozen=True)
class Shift:
    """A constant that a node adds to channels, or compares with them. It has to be rescaled with them.

    Attributes:
        node: Name of the node.
        index: Index of the constant among the node's inputs.
        ids: Wire of each channel, ``[c]``.
        from_right: Channel axis counted from the last axis, which is -1.
    """

    node: str
    index: int
    ids: Indices
    from_right: int


class Ties:
    """A union-find over wires, and the wires of every tensor of a graph.

    Args:
        shapes: Shapes of the graph's tensors.

    Attributes:
        shapes: Shapes of the graph's tensors.
        wires: Wires by tensor name. Tensors with unknown channels are missing.
        shifts: Constants that have to be rescaled.
    """

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.wires: dict[str, Wires] = {}
        self.shifts: list[Shift] = []
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}

    def fresh(self, count: int) -> Indices:
        """Return ``count`` new wires that are not tied."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    @property
    def count(self) -> int:
        """Number of wires."""
        return len(self._parent)

    def root(self, wire: int) -> int:
        """Return the representative of all wires that are tied to this one."""
        while self._parent[wire] != wire:
            self._parent[wire] = self._parent[self._parent[wire]]
            wire = self._parent[wire]
        return wire

    def join(self, one: Indices, other: Indices) -> None:
        """Tie each wire of one set ``[c]`` to the wire at the same position of the other set ``[c]``."""
        for first, second in zip(one.tolist(), other.tolist(), strict=True):
            low, high = sorted((self.root(first), self.root(second)))
            self._parent[high] = low
            if high != low and high in self._reasons:
                self._reasons.setdefault(low, self._reasons.pop(high))

    def fix(self, ids: Indices, reason: str) -> None:
        """Fix the scale of wires at 1. A wire keeps the first reason that it gets."""
        for wire in ids.tolist():
            self._reasons.setdefault(self.root(wire), reason)

    def reason(self, wire: int) -> str | None:
        """Return why a wire's scale is fixed, or None if it is free."""
        return self._reasons.get(self.root(wire))

    def is_fixed(self, wires: Wires) -> bool:
        """Return whether the scales of all channels are fixed."""
        return all(self.reason(wire) is not None for wire in wires.ids.tolist())

    def read(self, tensor: gs.Tensor, reason: str = "") -> Wires | None:
        """Return the wires of a tensor, or None if its channels are not known.

        If no node has set the wires of the tensor, but the size of axis 1 is known, it gets fixed wires along axis 1.

        Args:
            tensor: The tensor.
            reason: Why such new wires are fixed.
        """
        name = str(tensor.name)
        if name not in self.wires:
            shape = self.shapes.get(name, ())
            count = shape[1] if len(shape) > 1 else None
            if not isinstance(count, int):
                return None
            self.write(tensor, self.fresh(count), 1, len(shape))
            self.fix(self.wires[name].ids, reason or f"nothing is known of the channels of {name}")
        return self.wires[name]

    def write(self, tensor: gs.Tensor, ids: Indices, axis: int, rank: int) -> None:
        """Set the wires of a tensor."""
        self.wires[str(tensor.name)] = Wires(ids, axis, rank)

    def fix_node(self, node: gs.Node, reason: str) -> None:
        """Fix the wires of all tensors that a node reads and writes."""
        for tensor in activations([*node.inputs, *node.outputs]):
            if wires := self.read(tensor, reason):
                self.fix(wires.ids, reason)


def activations(tensors: Iterable[gs.Tensor]) -> list[gs.Variable]:
    """Return those of a node's tensors that are neither constant nor omitted."""
    return [tensor for tensor in tensors if isinstance(tensor, gs.Variable) and tensor.name]
