"""Sets of tensors that can only be rotated together, with everything that writes and reads them.

Each tensor knows the axis of its channels, counted from the last one. Operators that add tensors or move positions tie
what they read to what they write. Normalizations do so too, if what reads them can take over their scale and shift.
All others fix their tensors, with a reason.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.normalise.shapes import Shapes
from passes.ir.linear import Linear
from passes.ir.surgery import is_default_domain
from passes.rotation.channel_axes import MOVERS, PASS_CONSTANTS_ON, from_last

__all__ = ["Tied", "TiedTensors"]

_SUMS = frozenset({"Add", "Sub"})
_NORMALIZATIONS = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
_SOURCES = frozenset({"Expand", "Gather"})
"""Operators that bring constants to a stream: a token for every sample, rows of a table."""


@dataclass
class Tied:
    """A set of tensors that can only be rotated together.

    Attributes:
        tensors: Names of the tensors.
        producers: Layers that write them.
        consumers: Layers that read them.
        constants: Constants that are added to them or joined with them: the node and the index of the input.
        normalizations: Names of the layers that read what a normalization writes, by its name.
        keeps_mean: Whether a rotation has to keep the mean of the channels.
        reason: Why they cannot be rotated. None: they can.
    """

    tensors: set[str] = field(default_factory=set)
    producers: list[Linear] = field(default_factory=list)
    consumers: list[Linear] = field(default_factory=list)
    constants: list[tuple[gs.Node, int]] = field(default_factory=list)
    normalizations: dict[str, list[str]] = field(default_factory=dict)
    keeps_mean: bool = False
    reason: str | None = None

    def absorb(self, other: "Tied") -> None:
        """Add another set to this one, whose reason is kept if it has one."""
        self.tensors |= other.tensors
        self.producers += other.producers
        self.consumers += other.consumers
        self.constants += other.constants
        self.normalizations |= other.normalizations
        self.keeps_mean = self.keeps_mean or other.keeps_mean
        self.reason = self.reason or other.reason

    def fix(self, reason: str | None) -> None:
        """Give a reason, unless there is none or the set has one."""
        self.reason = self.reason or reason


class TiedTensors:
    """All sets of a graph, while its nodes are added in order.

    Args:
        shapes: Shapes of the graph's tensors.
        through_normalization: Whether normalizations tie tensors. Otherwise they fix them.
    """

    def __init__(self, shapes: Shapes, *, through_normalization: bool) -> None:
        self._shapes = shapes
        self._normalizations = _NORMALIZATIONS if through_normalization else frozenset()
        self._sets: dict[str, Tied] = {}
        self._axes: dict[str, int] = {}  # of the channels; only tensors of fixed sets can be missing
        self._normalized: dict[str, gs.Node] = {}  # tensors that have the scale and shift of this normalization

    def sets(self) -> list[Tied]:
        """Return every set once, in the order of the nodes."""
        return list({id(tied): tied for tied in self._sets.values()}.values())

    def of(self, tensor: gs.Tensor) -> Tied:
        """Return the set of a tensor."""
        return self._sets.setdefault(str(tensor.name), Tied({str(tensor.name)}))

    def add_layer(self, node: gs.Node, layer: Linear, why_fixed: str | None) -> None:
        """Add a layer. ``why_fixed`` is why neither side of it can be rotated, or None."""
        source, target, read = self.of(node.inputs[0]), self.of(node.outputs[0]), str(node.inputs[0].name)
        source.consumers.append(layer)
        target.producers.append(layer)
        axis = -1 - len(layer.kernel) if layer.kernel else -1
        self._axes[str(node.outputs[0].name)] = axis
        if self._axes.get(read, axis) != axis:
            source.fix(f"{layer.name} reads its inputs from another axis than that of the channels")
        if normalization := self._normalized.get(read):
            source.normalizations[str(normalization.name)].append(layer.name)
            padded = layer.op == "ConvTranspose" or any(layer.pads) or layer.auto_pad not in {"NOTSET", "VALID"}
            if padded and _has_shift(normalization):
                source.fix(f"{layer.name} pads what {normalization.name} has shifted with zeros")
        source.fix(why_fixed)
        target.fix(why_fixed)

    def add(self, node: gs.Node) -> None:
        """Add a node that is no layer."""
        if node.op in {"Shape", "Size"}:
            return  # they read no values
        if not is_default_domain(node):
            self._fix(node)
        elif node.op in _SUMS:
            self._add_sum(node)
        elif node.op in MOVERS:
            self._add_mover(node)
        elif node.op in self._normalizations:
            self._add_normalization(node)
        else:
            self._fix(node)

    def _fix(self, node: gs.Node, reason: str = "does not treat all channels alike and linearly") -> None:
        for tensor in _activations([*node.inputs, *node.outputs]):
            self.of(tensor).fix(f"{node.name} ({node.op}) {reason}")

    def _add_sum(self, node: gs.Node) -> None:
        operands, constants = _activations(node.inputs), _constants(node.inputs)
        axes = self._axes_of(operands)
        if len(axes) > 1:
            self._fix(node, "adds channels of different axes")
        if constants and axes != {-1}:
            self._fix(node)
        self._tie(node, operands, constants, min(axes, default=None))

    def _add_mover(self, node: gs.Node) -> None:
        sources = node.inputs if node.op == "Concat" else node.inputs[:1]
        operands, constants = _activations(sources), _constants(sources)
        axes = self._axes_of(operands)
        if not operands and node.op in _SOURCES:
            axes = {-1}
        axis = MOVERS[node.op](node, min(axes), self._shapes) if len(axes) == 1 else None
        if axis is None or (constants and axis != -1) or any(output.name for output in node.outputs[1:]):
            self._fix(node, "does not keep all channels on one axis")
        self._tie(node, operands, constants, axis, moved=node.op in PASS_CONSTANTS_ON)

    def _add_normalization(self, node: gs.Node) -> None:
        source, output = node.inputs[0], node.outputs[0]
        parameters = [tensor for tensor in node.inputs[1:] if tensor.name]
        if not all(isinstance(each, gs.Constant) and len(each.shape) == 1 for each in parameters):
            self._fix(node, "has a scale or shift that is not one constant for each channel")
        if {from_last(node.attrs.get("axis", -1), source, self._shapes), *self._axes_of([source])} != {-1}:
            self._fix(node, "may normalize over other axes than that of the channels")
        if any(each.name for each in node.outputs[1:]):
            self._fix(node, "also writes means or deviations")
        self._tie(node, [source], [], -1)
        tied = self.of(output)
        tied.normalizations[str(node.name)] = []
        tied.keeps_mean = tied.keeps_mean or node.op == "LayerNormalization"
        self._normalized[str(output.name)] = node

    def _axes_of(self, tensors: list[gs.Tensor]) -> set[int]:
        return {self._axes[str(each.name)] for each in tensors if str(each.name) in self._axes}

    def _tie(
        self, node: gs.Node, operands: list[gs.Tensor], constants: list[int], axis: int | None, *, moved: bool = False
    ) -> None:
        """Tie operands and constants to the first output.

        Args:
            node: The node.
            operands: Activations that it reads.
            constants: Indices of constants that it reads.
            axis: Axis of the output's channels. None: it is not known, and the set is fixed.
            moved: Whether the output has the scale and shift of the normalization before, if there is one.
        """
        output = node.outputs[0]
        tied = self.of(operands[0] if operands else output)
        for tensor in [*operands[1:], output]:
            other = self.of(tensor)
            if other is not tied:
                tied.absorb(other)
                self._sets.update(dict.fromkeys(other.tensors, tied))
        tied.constants += [(node, index) for index in constants]
        if axis is not None:
            self._axes[str(output.name)] = axis
        for tensor in operands:
            normalization = self._normalized.get(str(tensor.name))
            if normalization is not None and moved:
                self._normalized[str(output.name)] = normalization
            elif normalization is not None:
                tied.fix(f"{node.name} ({node.op}) cannot take over the scale of {normalization.name}")


def _activations(tensors: list[gs.Tensor]) -> list[gs.Tensor]:
    return [tensor for tensor in tensors if isinstance(tensor, gs.Variable) and tensor.name]


def _constants(tensors: list[gs.Tensor]) -> list[int]:
    return [index for index, tensor in enumerate(tensors) if isinstance(tensor, gs.Constant)]


def _has_shift(normalization: gs.Node) -> bool:
    shift = normalization.inputs[2] if len(normalization.inputs) > 2 else None
    return isinstance(shift, gs.Constant) and bool(np.any(shift.values))
