"""Fold BatchNormalization into the linear layer before it or, if that is exact, behind it.

At inference BatchNormalization is y = a x + c per channel, with a = gamma / sqrt(var + epsilon) and c = beta - a mean
(Ioffe & Szegedy 2015, arXiv:1502.03167, algorithm 2). For a layer W x + b (Jacob et al. 2018, arXiv:1712.05877,
equation 14):

    behind the layer      a (W x + b) + c = (a W) x + (a b + c)             a scales output channels
    before the layer      W (a x + c) + b = (W a) x + (b + sum_i W_i c_i)   a scales input channels

Layers that share a weight keep sharing it where the same scale follows all of them. If the scales differ, a large
weight is not copied for each: the BatchNormalization stays.

At a padded border the second holds only if c = 0, because the zeros of the padding are not shifted. The same is true at
the borders of a transposed convolution, where fewer taps contribute. All sums are in float64 and are rounded to float32
once.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from passes.base import GraphPass
from passes.ir.model import Model
from passes.ir.surgery import (
    graph_output_names,
    is_default_domain,
    remove_node,
    replace_input,
    set_constant,
    sole_consumer,
)
from passes.report import Change, PassReport
from passes.statistics import Stats

__all__ = ["FoldBatchnorm", "FoldResult", "affine", "fold_batchnorm"]

Floats = NDArray[np.float64]

_LARGE = 1 << 18  # bytes of a shared weight; copies of smaller ones cost less than a BatchNormalization of its own
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_LAYERS = (*_CONVOLUTIONS, "Gemm")


@dataclass(frozen=True)
class FoldResult:
    """The result of folding, for every BatchNormalization.

    Attributes:
        folded: What was folded into a layer, such as ``bn1 folded``, by layer name.
        kept: Why a BatchNormalization was not folded, by its name.
    """

    folded: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)


def fold_batchnorm(graph: gs.Graph) -> FoldResult:
    """Fold every BatchNormalization that can be folded, in place. The graph must be sorted and its nodes named.

    The name of the layer's node does not change. If the BatchNormalization is behind the layer, the layer's output
    takes the name of its output. A layer without a bias gets one called `<layer>.bias`.
    """
    result = FoldResult()
    norms: dict[str, list[str]] = {}
    same: dict[tuple[int, bytes], gs.Constant] = {}  # by the weight before, and the scale: the weight after
    for norm in [node for node in graph.nodes if node.op == "BatchNormalization" and is_default_domain(node)]:
        name = norm.name
        coefficients = affine(norm)
        if isinstance(coefficients, str):
            result.kept[name] = coefficients
            continue
        scale, shift = coefficients
        behind = _why_not_into_previous(graph, norm) or _why_not_copied(graph, norm.inputs[0].inputs[0], scale)
        if behind is None:
            layer = norm.inputs[0].inputs[0]
            weight = layer.inputs[1]
            key = id(weight), scale.tobytes()
            _fold_into_previous(graph, layer, norm, scale, shift)
            layer.inputs[1] = same.setdefault(key, layer.inputs[1])
        elif (before := _why_not_into_next(graph, norm, len(scale), shift)) is None:
            layer = norm.outputs[0].outputs[0]
            _fold_into_next(graph, layer, norm, scale, shift)
        else:
            result.kept[name] = f"{behind}; {before}"
            continue
        norms.setdefault(layer.name, []).append(name)
    result.folded.update({layer: f"{' and '.join(names)} folded" for layer, names in norms.items()})
    return result


def affine(norm: gs.Node) -> tuple[Floats, Floats] | str:
    """Return the scale a [c] and the shift c [c] of a BatchNormalization, or why they are not known."""
    if norm.attrs.get("training_mode", 0):
        return "it is in training mode"
    for role, tensor in zip(("scale", "bias", "mean", "variance"), norm.inputs[1:], strict=True):
        if not isinstance(tensor, gs.Constant):
            return f"its {role} is not a constant"
    gamma, beta, mean, variance = (tensor.values.astype(np.float64) for tensor in norm.inputs[1:])  # [c] each
    spread = variance + norm.attrs.get("epsilon", 1e-5)
    if not (spread > 0.0).all():
        return f"variance + epsilon is {spread.min():g} in channel {int(spread.argmin())}, which has no square root"
    scale = gamma / np.sqrt(spread)
    return scale, beta - scale * mean


# --- the layer before ------------------------------------------------------------------------------------------------


def _why_not_into_previous(graph: gs.Graph, norm: gs.Node) -> str | None:
    source = norm.inputs[0]
    if not source.inputs:
        return "no linear layer before it (it reads a graph input)"
    layer = source.inputs[0]
    if layer.op not in _LAYERS or not is_default_domain(layer):
        return f"no linear layer before it (it reads {layer.op} {layer.name})"
    if source.name in graph_output_names(graph):
        return f"the output of {layer.name} is also an output of the model"
    if len(source.outputs) != 1:
        return f"the output of {layer.name} is also read by {_others(source, norm)}"
    if reason := _why_weights_cannot_change(layer):
        return reason
    return None


def _fold_into_previous(graph: gs.Graph, layer: gs.Node, norm: gs.Node, scale: Floats, shift: Floats) -> None:
    weight = layer.inputs[1].values.astype(np.float64)
    if layer.op == "ConvTranspose":  # [I, O/g, *k]: inputs ordered by group, each with the outputs of its group
        groups = layer.attrs.get("group", 1)
        parts = weight.reshape(groups, -1, *weight.shape[1:])  # [g, I/g, O/g, *k]
        factors = scale.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
        scaled = (parts * factors).reshape(weight.shape)
    elif layer.op == "Gemm" and not layer.attrs.get("transB", 0):
        scaled = weight * scale  # [i, o]
    else:
        scaled = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))  # [o, ...]
    bias = scale * _bias_or_zeros(layer, len(scale)) + shift
    _write(graph, layer, scaled, bias)
    output = norm.outputs[0]
    remove_node(graph, norm)
    layer.outputs = [output]


# --- the layer behind ------------------------------------------------------------------------------------------------


def _why_not_into_next(graph: gs.Graph, norm: gs.Node, channels: int, shift: Floats) -> str | None:
    output = norm.outputs[0]
    if output.name in graph_output_names(graph):
        return "its output is an output of the model"
    layer = sole_consumer(graph, output)
    if layer is None:
        return "its output is read by several nodes"
    if layer.op not in _LAYERS or not is_default_domain(layer):
        return f"no linear layer behind it ({layer.op} {layer.name} reads it)"
    if layer.inputs[0] is not output or layer.attrs.get("transA", 0):
        return f"{layer.name} does not multiply its channels by a weight"
    if reason := _why_weights_cannot_change(layer) or _why_not_copied(graph, layer):
        return reason
    if _inputs(layer) != channels:
        return f"{layer.name} does not multiply its {channels} channels one by one"
    if np.any(shift != 0.0) and (layer.op == "ConvTranspose" or _is_padded(layer)):
        return f"it shifts what {layer.name} pads with zeros"
    return None


def _fold_into_next(graph: gs.Graph, layer: gs.Node, norm: gs.Node, scale: Floats, shift: Floats) -> None:
    weight = layer.inputs[1].values.astype(np.float64)
    if layer.op == "Conv":  # [O, I/g, *k]: outputs ordered by group
        groups = layer.attrs.get("group", 1)
        parts = weight.reshape(groups, -1, *weight.shape[1:])  # [g, O/g, I/g, *k]
        shape = (groups, 1, -1, *[1] * (weight.ndim - 2))
        scaled = (parts * scale.reshape(shape)).reshape(weight.shape)
        bias_shift = (parts * shift.reshape(shape)).sum(axis=tuple(range(2, parts.ndim))).reshape(-1)  # [O]
    elif layer.op == "ConvTranspose":  # [I, O/g, *k]; the shift is zero
        scaled = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        bias_shift = np.zeros(weight.shape[1] * layer.attrs.get("group", 1))
    elif layer.attrs.get("transB", 0):
        scaled, bias_shift = weight * scale, weight @ shift  # [o, i]
    else:
        scaled, bias_shift = weight * scale[:, None], shift @ weight  # [i, o]
    bias_shift = bias_shift * layer.attrs.get("alpha", 1.0)
    _write(graph, layer, scaled, _bias_or_zeros(layer, len(bias_shift)) + bias_shift)
    source, output = norm.inputs[0], norm.outputs[0]
    replace_input(layer, output, source)
    remove_node(graph, norm)


def _inputs(layer: gs.Node) -> int:
    shape = tuple(layer.inputs[1].shape)
    if layer.op == "Conv":
        return int(shape[1]) * int(layer.attrs.get("group", 1))
    return int(shape[1] if layer.op == "Gemm" and layer.attrs.get("transB", 0) else shape[0])


def _is_padded(layer: gs.Node) -> bool:
    if layer.op == "Gemm":
        return False
    return layer.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or any(layer.attrs.get("pads", []))


# --- weights ---------------------------------------------------------------------------------------------------------


def _why_not_copied(graph: gs.Graph, layer: gs.Node, scale: Floats | None = None) -> str | None:
    """Return why a layer cannot get a weight of its own: it shares a large one, so the file would have it twice.

    Args:
        graph: The graph.
        layer: The layer.
        scale: What its outputs are multiplied by. If those of all layers with this weight are, they get one copy.
    """
    weight = layer.inputs[1]
    others = [node for node in weight.outputs if node is not layer]
    if not others or weight._values.nbytes < _LARGE:
        return None
    if scale is not None and all(np.array_equal(scale, _scale_behind(graph, node)) for node in others):
        return None
    return f"{layer.name} shares {weight.name} with {others[0].name}, and would need a copy"


def _scale_behind(graph: gs.Graph, layer: gs.Node) -> Floats:
    """Return the scale of the BatchNormalization behind a layer. It is empty if there is none."""
    norm = sole_consumer(graph, layer.outputs[0])
    coefficients = affine(norm) if norm is not None and norm.op == "BatchNormalization" else ""
    return np.zeros(0) if isinstance(coefficients, str) else coefficients[0]


def _why_weights_cannot_change(layer: gs.Node) -> str | None:
    for role, tensor in zip(("weight", "bias"), layer.inputs[1:], strict=False):
        if tensor.is_empty():
            continue
        if not isinstance(tensor, gs.Constant):
            return f"the {role} of {layer.name} is not a constant"
        if tensor.dtype != np.float32:
            return f"the {role} of {layer.name} is {tensor.dtype}, not float32"
        if role == "bias" and len(tensor.shape) == 2 and tensor.shape[0] != 1:
            return f"the bias of {layer.name} differs from row to row"
    return None


def _bias(layer: gs.Node) -> Floats:
    """Return the bias of a convolution, or beta C of a Gemm. Its size is 0 if there is none."""
    if len(layer.inputs) < 3 or layer.inputs[2].is_empty():
        return np.zeros(0)
    values: Floats = layer.inputs[2].values.astype(np.float64).reshape(-1) * layer.attrs.get("beta", 1.0)
    return values


def _bias_or_zeros(layer: gs.Node, outputs: int) -> Floats:
    bias = _bias(layer)
    return np.broadcast_to(bias, (outputs,)) if bias.size else np.zeros(outputs)


def _write(graph: gs.Graph, layer: gs.Node, weight: Floats, bias: Floats) -> None:
    set_constant(graph, layer, 1, weight.astype(np.float32), f"{layer.name}.weight")
    set_constant(graph, layer, 2, bias.astype(np.float32), f"{layer.name}.bias")
    layer.attrs.pop("beta", None)  # it is in the bias now


def _others(tensor: gs.Tensor, norm: gs.Node) -> str:
    return ", ".join(node.name or node.op for node in tensor.outputs if node is not norm)


@dataclass(frozen=True)
class FoldBatchnorm(GraphPass):
    """`fold_batchnorm` as a pass."""

    name: ClassVar[str] = "fold_batchnorm"
    settles_layers: ClassVar[bool] = True
    keeps_outputs: ClassVar[bool] = True

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Fold every BatchNormalization that can be folded. The report has a note for every other one."""
        result = fold_batchnorm(model.graph)
        changed = {name: Change(what) for name, what in result.folded.items()}
        skipped = {name: "no BatchNormalization to fold" for name in model.layers() if name not in changed}
        return PassReport(self.name, changed, skipped, tuple(f"{name}: {why}" for name, why in result.kept.items()))
