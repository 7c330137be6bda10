"""Convolutions and pools as differentiable torch functions. `converter.learn.graph.operators` collects them.

torch pads both ends of an axis by the same amount. ONNX need not (``pads`` lists all begins, then all ends;
``auto_pad``). Where the ends differ, the functions pad the input, or cut the output of a transposed convolution,
themselves.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SPATIAL", "NoTorchForm"]

Attributes = Mapping[str, Any]


class NoTorchForm(Exception):
    """An operator has attributes that its torch form does not support. The message names them."""


_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}

_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}
_ALIGNS_CORNERS = {"half_pixel": False, "align_corners": True}


def _conv(attrs: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    n = w.ndim - 2
    strides, dilations = _ints(attrs, "strides", n), _ints(attrs, "dilations", n)
    begins, ends = _pads(attrs, x, w.shape[2:], strides, dilations)
    groups = int(attrs.get("group", 1))
    if begins == ends:
        return _CONV[n](x, w, b, strides, begins, dilations, groups)
    return _CONV[n](F.pad(x, _sides(begins, ends)), w, b, strides, 0, dilations, groups)


def _conv_transpose(attrs: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    n = w.ndim - 2
    strides, dilations = _ints(attrs, "strides", n), _ints(attrs, "dilations", n)
    extra = _ints(attrs, "output_padding", n, 0)
    if attrs.get("auto_pad", "NOTSET") not in {"NOTSET", "VALID"} or attrs.get("output_shape"):
        raise NoTorchForm("ConvTranspose with auto_pad or output_shape")
    pads = [int(value) for value in attrs.get("pads", [0] * (2 * n))]
    y = _TRANSPOSE[n](x, w, None, strides, 0, 0, int(attrs.get("group", 1)), dilations)
    cut = [extra[axis] - pads[n + axis] for axis in range(n)]
    y = F.pad(y, _sides([-begin for begin in pads[:n]], cut))
    return y if b is None else y + b.reshape(-1, *[1] * n)


def _max_pool(attrs: Attributes, x: Tensor) -> Tensor:
    if attrs.get("storage_order"):
        raise NoTorchForm("MaxPool with storage_order")
    kernel = [int(size) for size in attrs["kernel_shape"]]
    n = len(kernel)
    strides, dilations = _ints(attrs, "strides", n), _ints(attrs, "dilations", n)
    begins, ends = _pads(attrs, x, kernel, strides, dilations)
    if any(begins) or any(ends):
        x = F.pad(x, _sides(begins, ends), value=-math.inf)
    return _MAX[n](x, kernel, strides, 0, dilations, bool(attrs.get("ceil_mode")))


def _average_pool(attrs: Attributes, x: Tensor) -> Tensor:
    kernel = [int(size) for size in attrs["kernel_shape"]]
    n = len(kernel)
    strides = _ints(attrs, "strides", n)
    if any(step != 1 for step in _ints(attrs, "dilations", n)):
        raise NoTorchForm("AveragePool with dilations")
    begins, ends = _pads(attrs, x, kernel, strides, [1] * n)
    ceil, counted = bool(attrs.get("ceil_mode")), bool(attrs.get("count_include_pad"))
    if begins == ends and all(2 * pad <= size for pad, size in zip(begins, kernel, strict=True)):
        return _AVERAGE[n](x, kernel, strides, begins, ceil, counted)
    if ceil:
        raise NoTorchForm("AveragePool with ceil_mode and pads that differ")
    padded = F.pad(x, _sides(begins, ends))
    total = _AVERAGE[n](padded, kernel, strides)
    if counted:
        return total
    inside = _AVERAGE[n](F.pad(torch.ones_like(x[:1, :1]), _sides(begins, ends)), kernel, strides)
    return total / inside


def _global_average(attrs: Attributes, x: Tensor) -> Tensor:
    return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)


def _global_max(attrs: Attributes, x: Tensor) -> Tensor:
    return x.amax(dim=tuple(range(2, x.ndim)), keepdim=True)


def _resize(
    attrs: Attributes, x: Tensor, roi: Tensor | None, scales: Tensor | None, sizes: Tensor | None = None
) -> Tensor:
    if attrs.get("axes") or attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch" or attrs.get("antialias"):
        raise NoTorchForm("Resize with axes, keep_aspect_ratio_policy or antialias")
    if scales is not None and scales.numel():
        factors = scales.double().tolist()
        target = [size * factor for size, factor in zip(x.shape, factors, strict=True)]
    else:
        target = [] if sizes is None else [float(size) for size in sizes.tolist()]
    if len(target) != x.ndim or target[:2] != [*x.shape[:2]] or any(size != int(size) for size in target):
        raise NoTorchForm("Resize of other than spatial axes, or by a factor that does not give whole sizes,")
    resize = _resize_linear if attrs.get("mode", "nearest") == "linear" else _resize_nearest
    return resize(attrs, x, [int(size) for size in target[2:]])


def _resize_nearest(attrs: Attributes, x: Tensor, sizes: list[int]) -> Tensor:
    """Repeat every pixel, if the coordinate and rounding modes come to that."""
    coordinates = attrs.get("coordinate_transformation_mode", "half_pixel")
    rounding = attrs.get("nearest_mode", "round_prefer_floor")
    repeats = (coordinates, rounding) == ("asymmetric", "floor") or (
        coordinates in {"half_pixel", "pytorch_half_pixel"} and rounding.startswith("round")
    )
    whole = all(size % x.shape[axis] == 0 for axis, size in enumerate(sizes, start=2))
    if attrs.get("mode", "nearest") != "nearest" or not repeats or not whole:
        raise NoTorchForm("Resize other than linear, or nearest by a whole factor,")
    for axis, size in enumerate(sizes, start=2):
        x = x if size == x.shape[axis] else x.repeat_interleave(size // x.shape[axis], dim=axis)
    return x


def _resize_linear(attrs: Attributes, x: Tensor, sizes: list[int]) -> Tensor:
    """Interpolate linearly between the pixels."""
    coordinates = attrs.get("coordinate_transformation_mode", "half_pixel")
    if x.ndim not in _LINEAR or coordinates not in _ALIGNS_CORNERS:
        raise NoTorchForm(f"Resize (linear, {coordinates}) of {x.ndim - 2} axes")
    return F.interpolate(x, size=sizes, mode=_LINEAR[x.ndim], align_corners=_ALIGNS_CORNERS[coordinates])


def _pad(attrs: Attributes, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    if attrs.get("mode", "constant") != "constant" or axes is not None:
        raise NoTorchForm("Pad other than constant on every axis")
    amounts = [int(amount) for amount in pads.tolist()]
    return F.pad(x, _sides(amounts[: x.ndim], amounts[x.ndim :]), value=0.0 if value is None else float(value))


def _ints(attrs: Attributes, key: str, count: int, default: int = 1) -> list[int]:
    return [int(value) for value in attrs.get(key) or [default] * count]


def _sides(begins: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Pads in torch's order: the last axis first, begin and end of each axis together."""
    return [amount for pair in reversed(list(zip(begins, ends, strict=True))) for amount in pair]


def _pads(
    attrs: Attributes, x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Pads at the begins and at the ends of all spatial axes."""
    n, mode = len(kernel), attrs.get("auto_pad", "NOTSET")
    if mode not in {"SAME_UPPER", "SAME_LOWER"}:
        pads = [int(value) for value in attrs.get("pads") or [0] * (2 * n)]
        return pads[:n], pads[n:]
    begins, ends = [], []
    for size, taps, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + dilation * (taps - 1) + 1 - size, 0)
        begins.append(total // 2 if mode == "SAME_UPPER" else total - total // 2)
        ends.append(total - begins[-1])
    return begins, ends


SPATIAL: Mapping[str, Callable[..., Tensor]] = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
    "MaxPool": _max_pool,
    "Pad": _pad,
    "Resize": _resize,
}
"""Functions by ONNX operator. Their arguments are the attributes, then the operands."""
