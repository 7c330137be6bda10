"""Channels that must share a scale, by union-find.

Every channel of every activation is a *wire*, a number. Wires that an operator lets only be scaled together are tied;
a wire whose scale cannot differ from 1 is fixed, with a reason. `passes.scale_migration.scale_rules` ties them, operator by operator.
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
    """The channels of one activation tensor: wires ``ids`` ``[c]`` along ``axis`` of ``rank`` axes."""

    ids: Indices
    axis: int
    rank: int

    @property
    def from_right(self) -> int:
        """The channel axis counted from the last, which is -1."""
        return self.axis - self.rank


@dataclass(frozen=True)
class Shift:
    """A constant that a node adds to, or compares with, wires ``ids``: it takes the scale as they do."""

    node: str
    index: int
    ids: Indices
    from_right: int


class Ties:
    """Union-find over wires, and the wires of every tensor of a graph.

    Attributes:
        wires: by tensor name; a tensor whose channels are not known is missing.
        shifts: constants that have to be rescaled.
    """

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.wires: dict[str, Wires] = {}
        self.shifts: list[Shift] = []
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}

    def fresh(self, count: int) -> Indices:
        """New wires, tied to none."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    @property
    def count(self) -> int:
        """How many wires there are."""
        return len(self._parent)

    def root(self, wire: int) -> int:
        """The wire that stands for all that are tied to this one."""
        while self._parent[wire] != wire:
            self._parent[wire] = self._parent[self._parent[wire]]
            wire = self._parent[wire]
        return wire

    def join(self, one: Indices, other: Indices) -> None:
        """Let two sets of wires ``[c]`` share their scales, one by one."""
        for first, second in zip(one.tolist(), other.tolist(), strict=True):
            low, high = sorted((self.root(first), self.root(second)))
            self._parent[high] = low
            if high != low and high in self._reasons:
                self._reasons.setdefault(low, self._reasons.pop(high))

    def fix(self, ids: Indices, reason: str) -> None:
        """Let wires keep the scale 1; the first reason given stays."""
        for wire in ids.tolist():
            self._reasons.setdefault(self.root(wire), reason)

    def reason(self, wire: int) -> str | None:
        """Why a wire's scale is fixed; None if it is free."""
        return self._reasons.get(self.root(wire))

    def is_fixed(self, wires: Wires) -> bool:
        """Whether every channel's scale is fixed."""
        return all(self.reason(wire) is not None for wire in wires.ids.tolist())

    def read(self, tensor: gs.Tensor, reason: str = "") -> Wires | None:
        """The wires of a tensor; fixed ones, along axis 1, where nobody has named them but their number is known."""
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
        """Name the wires of a tensor."""
        self.wires[str(tensor.name)] = Wires(ids, axis, rank)

    def block_size(self, node: gs.Node, reason: str) -> None:
        """Fix all that a node reads and writes."""
        for tensor in activations([*node.inputs, *node.outputs]):
            if wires := self.read(tensor, reason):
                self.fix(wires.ids, reason)


def activations(tensors: Iterable[gs.Tensor]) -> list[gs.Variable]:
    """Those of a node's tensors that are neither constant nor omitted."""
    return [tensor for tensor in tensors if isinstance(tensor, gs.Variable) and tensor.name]
