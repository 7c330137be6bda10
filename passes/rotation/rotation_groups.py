"""Find activations whose channels can be mixed by an orthogonal matrix without changing the network's outputs.

If there is no activation function between a layer and the next, as at the end of an inverted bottleneck, a rotation
``R`` of what one layer writes and ``Rᵀ`` on what the next one reads cancel. A `RotationGroup` has all layers around
such activations. Residual Adds connect them, and operators that are linear and treat all channels alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from passes.errors import QuantizationError
from passes.ir.linear import Linear
from passes.ir.model import Model

__all__ = ["RotationGroup", "RotationGroups", "rotation_groups"]

_TRANSPARENT = frozenset({"Add", "AveragePool", "Dropout", "GlobalAveragePool", "Identity", "Sub"})
"""Operators ``f`` with ``f(R x) = R f(x)`` for every matrix R over channels, if all their operands are activations.

Pools are so only if the channels are on axis 1. Sums are so only if the channels of their operands are on one axis.
"""
_POOLS = frozenset({"AveragePool", "GlobalAveragePool"})


@dataclass(frozen=True)
class RotationGroup:
    """Layers around activations of ``size`` channels.

    Attributes:
        size: Number of channels.
        producers: Names of the layers that write them.
        consumers: Names of the layers that read them.
    """

    size: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]


@dataclass(frozen=True)
class RotationGroups:
    """All groups of a graph.

    Attributes:
        groups: The groups.
        reasons: Why the input of a layer cannot be rotated, by layer name, for all layers without a group.
    """

    groups: tuple[RotationGroup, ...]
    reasons: Mapping[str, str]


@dataclass
class _Tied:
    """A set of tensors that can only be rotated together."""

    tensors: set[str] = field(default_factory=set)
    producers: list[Linear] = field(default_factory=list)
    consumers: list[Linear] = field(default_factory=list)
    pools: list[str] = field(default_factory=list)
    reason: str | None = None

    def absorb(self, other: "_Tied") -> None:
        self.tensors |= other.tensors
        self.producers += other.producers
        self.consumers += other.consumers
        self.pools += other.pools
        self.reason = self.reason or other.reason

    def fix(self, reason: str) -> None:
        self.reason = self.reason or reason


def rotation_groups(model: Model) -> RotationGroups:
    """Find the rotation groups of a sorted graph whose nodes have unique names.

    Raises:
        QuantizationError: Activation grids were already chosen. A rotation would make them wrong.
    """
    if model.activation_qparams:
        raise QuantizationError(
            "channels cannot be rotated after activation grids are set; put the pass before activation_ranges"
        )
    layers, tables = model.layers(), model.tables()
    tied: dict[str, _Tied] = {}

    def of(tensor: gs.Tensor) -> _Tied:
        return tied.setdefault(str(tensor.name), _Tied({str(tensor.name)}))

    for tensor in model.graph.inputs:
        of(tensor).fix(f"{tensor.name} is an input of the model")
    for node in model.graph.nodes:
        if node.name in layers:
            layer = layers[str(node.name)]
            why = _why_fixed(model, node, layer)
            if layer.name in tables:
                why = why or f"{layer.name} shares its weight with {', '.join(tables[layer.name].readers)}"
            source, target = of(node.inputs[0]), of(node.outputs[0])
            source.consumers.append(layer)
            target.producers.append(layer)
            if why:
                source.fix(why)
                target.fix(why)
            continue
        together = [
            tensor for tensor in [*node.inputs, *node.outputs] if isinstance(tensor, gs.Variable) and tensor.name
        ]
        if node.op in _TRANSPARENT and not any(isinstance(tensor, gs.Constant) for tensor in node.inputs):
            first = of(together[0])
            if node.op in _POOLS:
                first.pools.append(f"{node.name} ({node.op})")
            for tensor in together[1:]:
                other = of(tensor)
                if other is not first:
                    first.absorb(other)
                    tied.update(dict.fromkeys(other.tensors, first))
            continue
        for tensor in together:
            of(tensor).fix(f"{node.name} ({node.op}) does not treat all channels alike and linearly")
    for tensor in model.graph.outputs:
        of(tensor).fix(f"{tensor.name} is an output of the model")
    return _resolved(list({id(component): component for component in tied.values()}.values()))


def _why_fixed(model: Model, node: gs.Node, layer: Linear) -> str | None:
    """Return why neither side of a layer can be rotated, or None if both can."""
    if layer.name in model.quantized:
        return f"{layer.name} is quantized already"
    if layer.groups != 1:
        return f"{layer.name} reads its channels in {layer.groups} groups"
    for tensor in node.inputs[1:]:
        if isinstance(tensor, gs.Constant) and len(tensor.outputs) != 1:
            return f"{layer.name} shares {tensor.name} with another node"
    return None


def _resolved(components: list[_Tied]) -> RotationGroups:
    groups, reasons = [], {}
    for tied in components:
        sizes = {layer.outputs for layer in tied.producers}
        spatial = {len(layer.kernel) for layer in [*tied.producers, *tied.consumers]}  # equal: so are their ranks
        if tied.reason is None and not tied.producers:
            tied.fix("no layer writes its input")
        if tied.reason is None and (len(sizes) != 1 or len(spatial) != 1):
            tied.fix("the layers around its input have different channels")
        if tied.reason is None and tied.pools and 0 in spatial:
            tied.fix(f"{tied.pools[0]} does not have its channels on axis 1")
        if tied.reason is not None:
            reasons.update({layer.name: tied.reason for layer in tied.consumers})
        elif tied.consumers:
            names = tuple(tuple(layer.name for layer in side) for side in (tied.producers, tied.consumers))
            groups.append(RotationGroup(sizes.pop(), *names))
    return RotationGroups(tuple(groups), reasons)
