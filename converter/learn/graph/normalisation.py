"""Normalizations as differentiable torch functions. `converter.learn.graph.operators` collects them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.learn.graph.spatial import NoTorchForm

__all__ = ["NORMALISATION"]

Attributes = Mapping[str, Any]


def _batch(attrs: Attributes, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    if attrs.get("training_mode"):
        raise NoTorchForm("BatchNormalization in training mode")
    return F.batch_norm(x, mean, variance, scale, bias, eps=_epsilon(attrs))


def _group(attrs: Attributes, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """There is one scale per channel (opset 21) or one per group (opset 18)."""
    return _grouped(attrs, x, int(attrs["num_groups"]), scale, bias)


def _instance(attrs: Attributes, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return _grouped(attrs, x, x.shape[1], scale, bias)


def _grouped(attrs: Attributes, x: Tensor, groups: int, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalize by hand: torch's own functions refuse a single pixel."""
    parts = x.reshape(x.shape[0], groups, -1)
    variance, mean = torch.var_mean(parts, dim=2, correction=0, keepdim=True)
    y = ((parts - mean) * torch.rsqrt(variance + _epsilon(attrs))).reshape(x.shape)
    repeats, shape = x.shape[1] // scale.numel(), (-1, *[1] * (x.ndim - 2))
    scale, bias = (value.repeat_interleave(repeats).reshape(shape) for value in (scale, bias))
    return y * scale + bias


def _layer(attrs: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = int(attrs.get("axis", -1)) % x.ndim
    y = F.layer_norm(x, x.shape[axis:], eps=_epsilon(attrs)) * scale
    return y if bias is None else y + bias


def _local_response(attrs: Attributes, x: Tensor) -> Tensor:
    alpha, beta, bias = (float(attrs.get(key, value)) for key, value in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1)))
    return F.local_response_norm(x, int(attrs["size"]), alpha, beta, bias)


def _epsilon(attrs: Attributes) -> float:
    return float(attrs.get("epsilon", 1e-5))


NORMALISATION: Mapping[str, Callable[..., Tensor]] = {
    "BatchNormalization": _batch,
    "GroupNormalization": _group,
    "InstanceNormalization": _instance,
    "LRN": _local_response,
    "LayerNormalization": _layer,
}
"""Functions by ONNX operator. Their arguments are the attributes, then the operands."""
