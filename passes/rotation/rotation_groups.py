"""Find activations whose channels can be mixed by an orthogonal matrix without changing the network's outputs.

If there is no activation function between a layer and the next, as at the end of an inverted bottleneck, a rotation
``R`` of what one layer writes and ``Rᵀ`` on what the next one reads cancel. A `RotationGroup` has all layers around
such activations. Residual Adds connect them, and operators that are linear and treat all channels alike.

A normalization connects them too. RMSNorm without its scale commutes with every R (Ashkboos et al. 2024, SliceGPT,
arXiv 2401.15024, equation 2). LayerNormalization without its scale and shift commutes with every R that keeps the mean
of the channels, ``R 1 = 1``. Its scale and shift move into the layers that read it. So the residual stream of a
transformer is one group if its normalizations stand before the layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from passes.errors import QuantizationError
from passes.graph.normalise.shapes import infer_shapes
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.rotation.tied_tensors import Tied, TiedTensors

__all__ = ["RotationGroup", "RotationGroups", "rotation_groups"]


@dataclass(frozen=True)
class RotationGroup:
    """What is around activations of ``size`` channels.

    Attributes:
        size: Number of channels.
        producers: Names of the layers that write them.
        consumers: Names of the layers that read them.
        constants: Constants ``[..., size]`` that are added to the activations or joined with them: name of the node,
            and index of the constant among its inputs.
        normalizations: Names of the consumers that read what a normalization writes, by its name.
        keeps_mean: Whether the rotation has to keep the mean of the channels.
    """

    size: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    constants: tuple[tuple[str, int], ...] = ()
    normalizations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    keeps_mean: bool = False


@dataclass(frozen=True)
class RotationGroups:
    """All groups of a graph.

    Attributes:
        groups: The groups.
        reasons: Why the input of a layer cannot be rotated, by layer name, for all layers without a group.
    """

    groups: tuple[RotationGroup, ...]
    reasons: Mapping[str, str]


def rotation_groups(model: Model, *, through_normalization: bool = False) -> RotationGroups:
    """Find the rotation groups of a sorted graph whose nodes have unique names.

    Args:
        model: The model.
        through_normalization: Whether a group may have normalizations inside.

    Raises:
        QuantizationError: Activation grids were already chosen. A rotation would make them wrong.
        ModelError: The shapes of the graph contradict each other.
    """
    if model.activation_qparams:
        raise QuantizationError(
            "channels cannot be rotated after activation grids are set; put the pass before activation_ranges"
        )
    layers, tables = model.layers(), model.tables()
    tensors = TiedTensors(infer_shapes(model.graph), through_normalization=through_normalization)
    for tensor in model.graph.inputs:
        tensors.of(tensor).fix(f"{tensor.name} is an input of the model")
    for node in model.graph.nodes:
        layer = layers.get(str(node.name))
        if layer is None:
            tensors.add(node)
            continue
        why = _why_fixed(model, node, layer)
        if layer.name in tables:
            why = why or f"{layer.name} shares its weight with {', '.join(tables[layer.name].readers)}"
        tensors.add_layer(node, layer, why)
    for tensor in model.graph.outputs:
        tensors.of(tensor).fix(f"{tensor.name} is an output of the model")
    groups, reasons = [], {}
    for tied in tensors.sets():
        reason = tied.reason or _why_not_alike(tied)
        if reason is not None:
            reasons.update({layer.name: reason for layer in tied.consumers})
        elif tied.consumers:
            groups.append(_group(tied))
    return RotationGroups(tuple(groups), reasons)


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


def _why_not_alike(tied: Tied) -> str | None:
    """Return why the layers and constants of a set do not fit one rotation, or None if they do."""
    if not tied.producers:
        return "no layer writes its input"
    size = tied.producers[0].outputs
    if {layer.outputs for layer in tied.producers} | {layer.inputs for layer in tied.consumers} != {size}:
        return "the layers around its input have different channels"
    for node, index in tied.constants:
        constant = node.inputs[index]
        if constant.dtype != np.float32 or not constant.shape or constant.shape[-1] != size:
            return f"{node.name} ({node.op}) has a constant that is not one float32 for each channel"
        if node.op == "Gather" and len(constant.outputs) != 1:
            return f"{node.name} ({node.op}) shares its table with another node"
    return None


def _group(tied: Tied) -> RotationGroup:
    return RotationGroup(
        tied.producers[0].outputs,
        tuple(layer.name for layer in tied.producers),
        tuple(layer.name for layer in tied.consumers),
        tuple((str(node.name), index) for node, index in tied.constants),
        {name: tuple(readers) for name, readers in tied.normalizations.items()},
        tied.keeps_mean,
    )
