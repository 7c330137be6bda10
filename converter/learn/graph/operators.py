"""ONNX operators as differentiable torch functions. `converter.learn.graph.program` runs graphs of them."""

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.learn.graph.normalisation import NORMALISATION
from converter.learn.graph.shaping import SHAPING, axes_of
from converter.learn.graph.spatial import SPATIAL

__all__ = ["OPERATORS", "SEVERAL"]

Attributes = Mapping[str, Any]


def _clip(attrs: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    bottom = attrs.get("min") if low is None else float(low)
    top = attrs.get("max") if high is None else float(high)
    return x if bottom is None and top is None else torch.clamp(x, bottom, top).to(x.dtype)


def _gelu(attrs: Attributes, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=str(attrs.get("approximate", "none")))


def _gemm(attrs: Attributes, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a, b = a.t() if attrs.get("transA") else a, b.t() if attrs.get("transB") else b
    y = float(attrs.get("alpha", 1.0)) * (a @ b)
    return y if c is None else y + float(attrs.get("beta", 1.0)) * c


def _hard_sigmoid(attrs: Attributes, x: Tensor) -> Tensor:
    return torch.clamp(attrs.get("alpha", 0.2) * x + attrs.get("beta", 0.5), 0, 1)


def _prelu(attrs: Attributes, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def _reduced(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Reduce over the axes in an attribute or an operand. If none are given, reduce over all axes."""

    def reduced(attrs: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = axes_of(attrs, axes)
        values = x if x.is_floating_point() else x.double()
        if not chosen and attrs.get("noop_with_empty_axes"):
            result = function(values[..., None], dim=-1, keepdim=False)  # reduces nothing: one value each
        else:
            result = function(values, dim=chosen or tuple(range(x.ndim)), keepdim=bool(attrs.get("keepdims", 1)))
        return result.to(x.dtype)

    return reduced


def _selu(attrs: Attributes, x: Tensor) -> Tensor:
    alpha, gamma = float(attrs.get("alpha", 1.67326319217681884765625)), attrs.get("gamma", 1.05070102214813232421875)
    return float(gamma) * F.elu(x, alpha)


def _mean(attrs: Attributes, *x: Tensor) -> Tensor:
    return reduce(torch.add, x) / len(x)


OPERATORS: Mapping[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    "Abs": lambda attrs, x: x.abs(),
    "Add": lambda attrs, a, b: a + b,
    "Celu": lambda attrs, x: F.celu(x, float(attrs.get("alpha", 1.0))),
    "Clip": _clip,
    "Cos": lambda attrs, x: torch.cos(x),
    "Div": lambda attrs, a, b: a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc"),
    "Dropout": lambda attrs, x, *mask: x,
    "Einsum": lambda attrs, *x: torch.einsum(str(attrs["equation"]), *x),
    "Elu": lambda attrs, x: F.elu(x, float(attrs.get("alpha", 1.0))),
    "Equal": lambda attrs, a, b: a == b,
    "Erf": lambda attrs, x: torch.erf(x),
    "Exp": lambda attrs, x: torch.exp(x),
    "Gelu": _gelu,
    "Gemm": _gemm,
    "Greater": lambda attrs, a, b: a > b,
    "GreaterOrEqual": lambda attrs, a, b: a >= b,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda attrs, x: F.hardswish(x),
    "Identity": lambda attrs, x: x,
    "LeakyRelu": lambda attrs, x: F.leaky_relu(x, float(attrs.get("alpha", 0.01))),
    "Less": lambda attrs, a, b: a < b,
    "LessOrEqual": lambda attrs, a, b: a <= b,
    "Log": lambda attrs, x: torch.log(x),
    "LogSoftmax": lambda attrs, x: torch.log_softmax(x, dim=int(attrs.get("axis", -1))),
    "MatMul": lambda attrs, a, b: a @ b,
    "Max": lambda attrs, *x: reduce(torch.maximum, x),
    "Mean": _mean,
    "Min": lambda attrs, *x: reduce(torch.minimum, x),
    "Mish": lambda attrs, x: F.mish(x),
    "Mul": lambda attrs, a, b: a * b,
    "Neg": lambda attrs, x: -x,
    "Not": lambda attrs, x: ~x,
    "PRelu": _prelu,
    "Pow": lambda attrs, a, b: torch.pow(a, b).to(a.dtype),
    "Reciprocal": lambda attrs, x: torch.reciprocal(x),
    "ReduceL2": _reduced(lambda x, dim, keepdim: torch.linalg.vector_norm(x, dim=dim, keepdim=keepdim)),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMin": _reduced(torch.amin),
    "ReduceSum": _reduced(torch.sum),
    "Relu": lambda attrs, x: torch.relu(x),
    "Selu": _selu,
    "Sigmoid": lambda attrs, x: torch.sigmoid(x),
    "Sin": lambda attrs, x: torch.sin(x),
    "Softmax": lambda attrs, x: torch.softmax(x, dim=int(attrs.get("axis", -1))),
    "Softplus": lambda attrs, x: F.softplus(x),
    "Softsign": lambda attrs, x: F.softsign(x),
    "Sqrt": lambda attrs, x: torch.sqrt(x),
    "Sub": lambda attrs, a, b: a - b,
    "Sum": lambda attrs, *x: reduce(torch.add, x),
    "Tanh": lambda attrs, x: torch.tanh(x),
    **NORMALISATION,
    **SHAPING,
    **SPATIAL,
}
"""Functions by ONNX operator. Their arguments are the attributes, then the operands."""

SEVERAL = frozenset({"Split"})
"""Operators that write several tensors. Their functions return a tuple."""
