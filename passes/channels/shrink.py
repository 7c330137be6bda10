"""Remove channels from a graph. Weights and constants become smaller, and so do all activations between them.

The network computes the same if the layers that read the channels multiply them by zero.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from passes.channels.channel_groups import ChannelGroup, input_channels_of, is_depthwise
from passes.errors import QuantizationError
from passes.graph.normalise.shapes import infer_shapes
from passes.ir.linear import LINEAR_OPS, Linear, find_linear, why_not_linear
from passes.ir.model import Model
from passes.ir.surgery import fresh_name, set_constant, tensor_names
from passes.scale_migration.scale_ties import Indices

__all__ = ["shrink"]

Mask = NDArray[np.bool_]


def shrink(model: Model, removed: Iterable[tuple[ChannelGroup, Indices]]) -> None:
    """Remove channels of groups.

    Args:
        model: The model, whose graph has not changed since the groups were found.
        removed: Groups, each with the numbers of its channels to remove.

    Raises:
        ValueError: A tensor would have no channel left.
        QuantizationError: The shapes of the smaller graph are not those that follow from the removal. This is a bug.
    """
    removed = [(group, chosen) for group, chosen in removed if len(chosen)]
    if not removed:
        return
    kept = _Kept(removed)
    expected = _expected_shapes(model.graph, kept)
    for node in list(model.graph.nodes):
        if node.op in LINEAR_OPS and why_not_linear(node) is None:
            _shrink_layer(model.graph, node, find_linear(node), kept)
        else:
            _SHRUNK.get(node.op, _shrink_constants)(model.graph, node, kept)
    for name, tensor in model.graph.tensors().items():
        if isinstance(tensor, gs.Variable) and name in kept.tensors and tensor.shape is not None:
            shape = list(tensor.shape)
            shape[kept.axes[name]] = int(kept.tensors[name].sum())
            tensor.shape = shape
    _require_shapes(model.graph, expected)


class _Kept:
    """Which channels of each tensor and of each layer stay.

    Attributes:
        tensors: Channels of a tensor that stay ``[c]``, by its name.
        axes: Axis of the channels, by name of the tensor.
        ranks: Number of axes, by name of the tensor.
        outputs: Outputs of a layer that stay ``[g o]``, by its name.
        inputs: Input channels of a layer that stay ``[g i]``, by its name.
    """

    def __init__(self, removed: Iterable[tuple[ChannelGroup, Indices]]) -> None:
        self.tensors: dict[str, Mask] = {}
        self.axes: dict[str, int] = {}
        self.ranks: dict[str, int] = {}
        self.outputs: dict[str, Mask] = {}
        self.inputs: dict[str, Mask] = {}
        for group, chosen in removed:
            left = np.ones(group.size + 1, np.bool_)  # the last entry is that of index -1
            left[np.asarray(chosen, np.intp)] = False
            for members, masks in ((group.producers, self.outputs), (group.consumers, self.inputs)):
                masks.update({name: left[channels] for name, channels in members.items()})
            for name, wires in group.tensors.items():
                self.tensors[name] = left[wires.ids]
                if not self.tensors[name].any():
                    raise ValueError(f"{name} would have none of its {len(wires.ids)} channels left")
                self.axes[name], self.ranks[name] = wires.axis, wires.rank


def _shrink_layer(graph: gs.Graph, node: gs.Node, layer: Linear, kept: _Kept) -> None:
    written, read = kept.outputs.get(layer.name), kept.inputs.get(layer.name)
    if (written is None or written.all()) and (read is None or read.all()):
        return
    g, o, _ = layer.matrix_shape
    written = np.ones(layer.outputs, np.bool_) if written is None else written
    read = np.ones(layer.inputs, np.bool_) if read is None else read
    matrix = layer.matrix(np.asarray(node.inputs[1].values))  # [g, o, k]
    if is_depthwise(layer):  # whole groups go
        rows = written.reshape(g, o)
        groups = int(read.sum())
        matrix = matrix[read]
        if not (rows.all(axis=1) == read).all():
            raise QuantizationError(f"{layer.name}: its outputs do not go with its inputs; please report this")
    else:
        groups = g
        inputs = np.asarray(input_channels_of(layer, read), np.bool_)  # [g, k]
        matrix = np.stack(
            [each[rows][:, columns] for each, rows, columns in zip(matrix, written.reshape(g, o), inputs, strict=True)]
        )
    per_group, outputs = int(read.sum()) // groups, int(written.sum())
    smaller = replace(layer, groups=groups, weight_shape=_weight_shape(layer, groups, per_group, outputs))
    set_constant(graph, node, 1, np.ascontiguousarray(smaller.stored(matrix)), f"{layer.name}.weight")
    if "group" in node.attrs:
        node.attrs["group"] = groups
    if layer.bias is not None:
        bias = np.asarray(node.inputs[2].values)
        if bias.size > 1:  # a Gemm may have one bias for all outputs
            smaller_bias = bias[..., written]
            set_constant(graph, node, 2, np.ascontiguousarray(smaller_bias), f"{layer.name}.bias")


def _weight_shape(layer: Linear, groups: int, per_group: int, outputs: int) -> tuple[int, ...]:
    """Return the shape of a weight of ``groups`` groups with ``per_group`` input channels each."""
    if layer.op == "Conv":
        return (outputs, per_group, *layer.kernel)
    if layer.op == "ConvTranspose":
        return (groups * per_group, outputs // groups, *layer.kernel)
    return (outputs, per_group) if layer.transposed else (per_group, outputs)


# --- other nodes -----------------------------------------------------------------------------------------------------


def _shrink_constants(graph: gs.Graph, node: gs.Node, kept: _Kept) -> None:
    """Take channels out of the constants that a node combines with its channels."""
    if node.op not in _WITH_CONSTANTS:
        return
    name = next((str(tensor.name) for tensor in node.outputs if tensor.name in kept.tensors), None)
    if name is None:
        return
    left = kept.tensors[name]
    axis = 0 if node.op == "BatchNormalization" else kept.axes[name] - kept.ranks[name]  # its parameters have one axis
    for index, tensor in enumerate(list(node.inputs)):
        if not isinstance(tensor, gs.Constant) or len(tensor.shape) < -axis or not tensor.shape:
            continue
        if tensor.shape[axis] == len(left) and not left.all():
            values = np.ascontiguousarray(np.compress(left, tensor.values, axis=axis))
            _replace_constant(graph, node, index, values)


_WITH_CONSTANTS = frozenset(
    {"Add", "BatchNormalization", "Div", "Max", "Mean", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum"}
)


def _replace_constant(graph: gs.Graph, node: gs.Node, index: int, values: NDArray[Any]) -> None:
    set_constant(graph, node, index, values, f"{node.name}.{index}")


def _shrink_split(graph: gs.Graph, node: gs.Node, kept: _Kept) -> None:
    """Give a Split along the channels the sizes of its parts."""
    source = str(node.inputs[0].name)
    if source not in kept.tensors or node.attrs.get("axis", 0) % kept.ranks[source] != kept.axes[source]:
        return
    before = _split_sizes(node, len(kept.tensors[source]))
    parts = np.split(kept.tensors[source], np.cumsum(before)[:-1])
    sizes = np.array([part.sum() for part in parts], np.int64)
    node.attrs.pop("num_outputs", None)
    if "split" in node.attrs:
        node.attrs["split"] = sizes.tolist()
    else:
        _replace_constant(graph, node, 1, sizes)


def _split_sizes(node: gs.Node, channels: int) -> list[int]:
    if "split" in node.attrs:
        return list(node.attrs["split"])
    if len(node.inputs) > 1 and node.inputs[1].name:
        return [int(size) for size in np.asarray(node.inputs[1].values)]
    size = -(-channels // len(node.outputs))  # the last part may be smaller
    return [size] * (len(node.outputs) - 1) + [channels - size * (len(node.outputs) - 1)]


def _shrink_slice(graph: gs.Graph, node: gs.Node, kept: _Kept) -> None:
    """Move the bounds of a Slice along the channels to those that are left of them."""
    source = str(node.inputs[0].name)
    if source not in kept.tensors:
        return
    starts, ends = (np.asarray(node.inputs[index].values).copy() for index in (1, 2))
    axes = np.asarray(node.inputs[3].values) if len(node.inputs) > 3 and node.inputs[3].name else np.arange(len(starts))
    left = kept.tensors[source]
    for place in np.flatnonzero(axes % kept.ranks[source] == kept.axes[source]).tolist():
        start, end, _ = slice(int(starts[place]), int(ends[place])).indices(len(left))
        starts[place], ends[place] = left[:start].sum(), left[:end].sum()
        _replace_constant(graph, node, 1, starts)
        _replace_constant(graph, node, 2, ends)


def _shrink_pad(graph: gs.Graph, node: gs.Node, kept: _Kept) -> None:
    """Let a Pad along the channels add, or take away, as many as are left of them."""
    source, output = str(node.inputs[0].name), str(node.outputs[0].name)
    name = source if source in kept.tensors else output
    if name not in kept.tensors:
        return
    pads = np.asarray(node.inputs[1].values).copy()
    axes = np.asarray(node.inputs[3].values) if len(node.inputs) > 3 and node.inputs[3].name else None
    axes = np.arange(kept.ranks[name]) if axes is None else axes
    for place in np.flatnonzero(axes % kept.ranks[name] == kept.axes[name]).tolist():
        begin, end = int(pads[place]), int(pads[place + len(axes)])
        for index, count, last in ((place, begin, False), (place + len(axes), end, True)):
            taken = kept.tensors.get(output if count > 0 else source)  # what is added is in the output only
            if count and taken is not None:
                part = taken[len(taken) - abs(count) :] if last else taken[: abs(count)]
                pads[index] = part.sum() * np.sign(count)
        _replace_constant(graph, node, 1, pads)


def _shrink_resize(graph: gs.Graph, node: gs.Node, kept: _Kept) -> None:
    """Let the sizes of a Resize follow."""
    output = str(node.outputs[0].name)
    if output not in kept.tensors or len(node.inputs) < 4 or not node.inputs[3].name:
        return
    sizes = np.asarray(node.inputs[3].values).copy()
    axes = [axis % kept.ranks[output] for axis in node.attrs.get("axes", range(kept.ranks[output]))]
    if kept.axes[output] in axes:
        sizes[axes.index(kept.axes[output])] = kept.tensors[output].sum()
        node.inputs[3] = gs.Constant(fresh_name(f"{node.name}.sizes", tensor_names(graph)), sizes)


_SHRUNK: Mapping[str, Callable[[gs.Graph, gs.Node, _Kept], None]] = MappingProxyType(
    {"Pad": _shrink_pad, "Resize": _shrink_resize, "Slice": _shrink_slice, "Split": _shrink_split}
)


# --- check -----------------------------------------------------------------------------------------------------------


def _expected_shapes(graph: gs.Graph, kept: _Kept) -> dict[str, tuple[Any, ...]]:
    """Return the shapes that all activations have after the removal, by name."""
    expected = {}
    for name, shape in infer_shapes(graph).items():
        if name in kept.tensors:
            shape = (*shape[: kept.axes[name]], int(kept.tensors[name].sum()), *shape[kept.axes[name] + 1 :])
        expected[name] = shape
    return expected


def _require_shapes(graph: gs.Graph, expected: Mapping[str, tuple[Any, ...]]) -> None:
    variables = {name for name, tensor in graph.tensors().items() if isinstance(tensor, gs.Variable)}
    for name, shape in infer_shapes(graph).items():
        sizes = [(one, other) for one, other in zip(shape, expected.get(name, ()), strict=False)]
        if name in variables and any(
            isinstance(one, int) and isinstance(other, int) and one != other for one, other in sizes
        ):
            raise QuantizationError(
                f"after channels were removed, {name} has the shape {list(shape)} and not {list(expected[name])}; "
                "please report this with the model"
            )
