"""What a target accepts, as the passes see it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

__all__ = ["Rules"]


_CHANNEL_AXES = MappingProxyType({"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "Gemm transB": 0, "MatMul": 1})


@dataclass(frozen=True)
class Rules:
    """What a target's integer kernels accept; one instance per target, as data.

    Attributes:
        linear: linear operators with integer kernels.
        compute: other operators that read and write integers, each tensor with its own grid.
        moving: operators that keep their input's grid.
        absorbable: operators whose clamp the following quantizer takes over.
        signed: activations are int8 rather than uint8.
        symmetric: activation grids have zero point 0 (int8) or the middle (uint8).
        float_outputs: linear operators that may write a float graph output, and floats for others: see `on_demand`.
        fused_adds: an Add takes a convolution's result before it is rounded; only its other operand is quantized.
        conv_dims: spatial dimensions of the convolutions with integer kernels.
        bias: form of an integer layer's bias in the file.
        narrowest: bits of the smallest integers that a constant may be stored in.
        weight_only: float operators may read codes that are rescaled in the file.
        on_demand: what no layer reads on integers, through whatever operators, stays in float; and the layers of
            `float_outputs` write floats for it.
        scalars: Add and Mul take a scalar constant, and a product with a positive one costs nothing.
        reads_by_channel: float layers may read activations with a scale per channel, which keeps onnxruntime from
            rounding their weights.
        no_float: kernels that the target has on integers only: "Gelu", "Conv 3-D", "Resize nearest".
        weight_types: 8-bit types that an integer layer may read its weight in; what is written is int8.
        weight_zero_points: weights of integer layers may have zero points other than 0.
        channel_axes: axis of the stored weight that an integer layer's per-channel scales lie on, by operator.
    """

    linear: frozenset[str]
    compute: frozenset[str]
    moving: frozenset[str]
    absorbable: frozenset[str]
    signed: bool = False
    symmetric: bool = False
    float_outputs: frozenset[str] = frozenset()
    fused_adds: bool = False
    conv_dims: frozenset[int] = frozenset({1, 2, 3})
    bias: Literal["int32", "float"] = "int32"
    narrowest: Literal[2, 4, 8] = 2
    weight_only: bool = True
    on_demand: bool = False
    scalars: bool = False
    reads_by_channel: bool = False
    no_float: frozenset[str] = frozenset()
    weight_types: frozenset[str] = frozenset({"int8"})
    weight_zero_points: bool = False
    channel_axes: Mapping[str, int] = field(default_factory=lambda: _CHANNEL_AXES)

    def why_no_kernel(self, op: str, weight_rank: int, groups: int) -> str | None:
        """Why a linear operator with a weight of that rank stays in float; None where there is an integer kernel."""
        if op not in self.linear:
            return f"the target has no integer {op}"
        dims = weight_rank - 2
        if op in {"Conv", "ConvTranspose"} and dims not in self.conv_dims:
            return f"the target has no integer {op} of {dims} dimension{'s' if dims > 1 else ''}"
        if op == "ConvTranspose" and groups > 1:
            return "the channels of a grouped ConvTranspose lie along two axes of its weight"
        return None

    def channel_axis(self, op: str, *, transposed: bool) -> int | None:
        """Where the target wants a layer's per-channel scales, ``transposed`` being a Gemm's transB; None: anywhere."""
        return self.channel_axes.get(f"{op} transB" if transposed else op)
