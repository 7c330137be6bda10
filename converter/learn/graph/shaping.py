"""Operators that move values or compute shapes, as torch functions. `converter.learn.graph.operators` collects them."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from converter.learn.graph.spatial import NoTorchForm

__all__ = ["SHAPING", "axes_of"]

Attributes = Mapping[str, Any]


def axes_of(attrs: Attributes, axes: Tensor | None) -> tuple[int, ...]:
    """Axes of an operator. They are an attribute or, in later opsets, an operand."""
    given = attrs.get("axes") if axes is None else axes.tolist()
    return tuple(int(axis) for axis in given or ())


def _cast(attrs: Attributes, x: Tensor) -> Tensor:
    try:
        dtype = torch.from_numpy(np.empty(0, onnx.helper.tensor_dtype_to_np_dtype(int(attrs["to"])))).dtype
    except TypeError as error:
        raise NoTorchForm(f"Cast to {onnx.TensorProto.DataType.Name(attrs['to'])}") from error
    if x.is_floating_point() and not dtype.is_floating_point:
        raise NoTorchForm("Cast of floats to integers")
    return x.to(dtype)


def _concat(attrs: Attributes, *x: Tensor) -> Tensor:
    return torch.cat(x, dim=int(attrs["axis"]))


def _constant_of_shape(attrs: Attributes, shape: Tensor) -> Tensor:
    value = attrs.get("value")
    filling = torch.zeros(1) if value is None else torch.from_numpy(np.array(getattr(value, "values", value)))
    return filling.to(shape.device).reshape(()).expand([int(size) for size in shape.tolist()]).clone()


def _depth_to_space(attrs: Attributes, x: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    side = int(attrs["blocksize"])
    rest = channels // side**2
    if attrs.get("mode", "DCR") == "DCR":
        x = x.reshape(n, side, side, rest, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(n, rest, side, side, height, width).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, rest, height * side, width * side)


def _expand(attrs: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    target = [int(size) for size in shape.tolist()]
    present = [1] * (len(target) - x.ndim) + list(x.shape)
    target = [1] * (len(present) - len(target)) + target
    return x.expand([size if other == 1 else other for size, other in zip(target, present, strict=True)])


def _flatten(attrs: Attributes, x: Tensor) -> Tensor:
    axis = int(attrs.get("axis", 1))
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def _gather(attrs: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = int(attrs.get("axis", 0)) % x.ndim
    positions = torch.where(indices < 0, indices + x.shape[axis], indices)
    values = x.index_select(axis, positions.reshape(-1))
    return values.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _range(attrs: Attributes, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    count = max(math.ceil((limit.item() - start.item()) / delta.item()), 0)
    return start + delta * torch.arange(count, dtype=start.dtype, device=start.device)


def _reshape(attrs: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sizes = [int(size) for size in shape.tolist()]
    if attrs.get("allowzero"):
        return x.reshape(sizes)
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)])


def _shape(attrs: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[attrs.get("start", 0) : attrs.get("end")], device=x.device)


def _slice(
    attrs: Attributes, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    count = len(starts)
    slices = [slice(None)] * x.ndim
    strides = [1] * count if steps is None else [int(step) for step in steps.tolist()]
    if min(strides) < 1:
        raise NoTorchForm("Slice with a negative step")
    for index, axis in enumerate(range(count) if axes is None else axes.tolist()):
        slices[int(axis)] = slice(int(starts[index]), int(ends[index]), strides[index])
    return x[tuple(slices)]


def _space_to_depth(attrs: Attributes, x: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    side = int(attrs["blocksize"])
    x = x.reshape(n, channels, height // side, side, width // side, side).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, channels * side**2, height // side, width // side)


def _split(attrs: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis, given = int(attrs.get("axis", 0)), attrs.get("split") if sizes is None else sizes.tolist()
    if given is None:
        return torch.split(x, -(-x.shape[axis] // int(attrs["num_outputs"])), axis)
    return torch.split(x, [int(size) for size in given], axis)


def _squeeze(attrs: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = axes_of(attrs, axes)
    return x.squeeze(chosen) if chosen else x.squeeze()


def _tile(attrs: Attributes, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat([int(count) for count in repeats.tolist()])


def _transpose(attrs: Attributes, x: Tensor) -> Tensor:
    return x.permute([int(axis) for axis in attrs.get("perm") or reversed(range(x.ndim))])


def _unsqueeze(attrs: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = axes_of(attrs, axes)
    rank = x.ndim + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        x = x.unsqueeze(axis)
    return x


SHAPING: Mapping[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": lambda attrs, condition, a, b: torch.where(condition, a, b),
}
"""Functions by ONNX operator. Their arguments are the attributes, then the operands."""
