"""The rules of a target that passes need to know."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from passes.errors import TargetError
from passes.numerics.kernel_times import KernelTimes

__all__ = ["Rules", "needs_integers"]


_CHANNEL_AXES = MappingProxyType({"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "Gemm transB": 0, "MatMul": 1})


@dataclass(frozen=True)
class Rules:
    """What the integer kernels of one target accept, as data.

    Attributes:
        linear: Linear operators with integer kernels.
        compute: Other operators that read and write integers. Each of their tensors has its own grid.
        moving: Operators whose output has the grid of their input.
        absorbable: Operators whose clamp the following quantizer can take over.
        signed: Whether activations are int8 rather than uint8.
        symmetric: Whether activation grids are symmetric, with zero point 0 (int8) or the middle (uint8).
        activation_bits: Bits of activations that integer kernels read and write.
        wide_ranges: Operators whose kernels write 16 bits on one grid only, from 0 to a value. Its 65,536th part is the
            step, and the zero point is 0.
        wide_silu: Whether a Sigmoid with 16 bits may be multiplied by what it reads. Without, it has 8 bits.
        float_outputs: Linear operators that may write a float output of the graph. With `on_demand`, they may also
            write floats for other operators.
        fused_adds: Whether an Add reads a convolution's result before it is rounded. Then only its other operand is
            quantized.
        conv_dims: Numbers of spatial dimensions for which there are integer convolutions.
        bias: Form of an integer layer's bias in the file.
        narrowest: Fewest bits of the integer types in which constants may be stored.
        weight_only: Whether float operators may read codes that are dequantized in the file.
        on_demand: Whether a tensor stays in float if no layer reads it as integers, directly or through other
            operators. The layers of `float_outputs` then write it as floats.
        scalars: Whether Add and Mul accept a scalar constant. A product with a positive scalar then costs nothing.
        reads_by_channel: Whether float layers may read activations with a scale per channel. It keeps onnxruntime from
            rounding their weights.
        gathers_codes: Whether a Gather may read rows of int8 codes, which then become floats.
        leaky_relu_as_sum: Whether a LeakyRelu between integers is faster as the sum of two multiples of its codes. The
            file then holds a Clip of codes.
        no_float: Kernels that the target has for integers only, such as "Gelu", "Conv 3-D", "Resize nearest".
        weight_types: 8-bit types in which an integer layer may read its weight. Files are written with int8.
        weight_zero_points: Whether weights of integer layers may have zero points other than 0.
        channel_axes: Axis of the per-channel scales in an integer layer's stored weight, by operator.
        pair_sum: Largest sum of two neighbouring weight codes of one sign, where kernels add two products in 16 bits.
            None: kernels add in 32 bits.
        channels_last: Whether a MaxPool on integers is fast next to convolutions only, which have channels last.
        times: Times of the kernels. Layers that run faster in float then keep float activations. None: not measured.
    """

    linear: frozenset[str]
    compute: frozenset[str]
    moving: frozenset[str]
    absorbable: frozenset[str]
    signed: bool = False
    symmetric: bool = False
    activation_bits: frozenset[int] = frozenset({8})
    wide_ranges: Mapping[str, float] = field(default_factory=dict)
    wide_silu: bool = True
    float_outputs: frozenset[str] = frozenset()
    fused_adds: bool = False
    conv_dims: frozenset[int] = frozenset({1, 2, 3})
    bias: Literal["int32", "float"] = "int32"
    narrowest: Literal[2, 4, 8] = 2
    weight_only: bool = True
    on_demand: bool = False
    scalars: bool = False
    reads_by_channel: bool = False
    gathers_codes: bool = False
    leaky_relu_as_sum: bool = False
    no_float: frozenset[str] = frozenset()
    weight_types: frozenset[str] = frozenset({"int8"})
    weight_zero_points: bool = False
    channel_axes: Mapping[str, int] = field(default_factory=lambda: _CHANNEL_AXES)
    pair_sum: int | None = None
    channels_last: bool = False
    times: KernelTimes | None = None

    def why_no_kernel(self, op: str, weight_rank: int, groups: int) -> str | None:
        """Return why a linear operator with a weight of this rank has no integer kernel, or None if it has one."""
        if op not in self.linear:
            return f"the target has no integer {op}"
        dims = weight_rank - 2
        if op in {"Conv", "ConvTranspose"} and dims not in self.conv_dims:
            return f"the target has no integer {op} of {dims} dimension{'s' if dims > 1 else ''}"
        if op == "ConvTranspose" and groups > 1:
            return "the channels of a grouped ConvTranspose lie along two axes of its weight"
        return None

    def channel_axis(self, op: str, *, transposed: bool) -> int | None:
        """Return the axis on which the target needs a layer's per-channel scales, or None if any axis is accepted.

        Args:
            op: Operator of the layer.
            transposed: Whether a Gemm has transB set.
        """
        return self.channel_axes.get(f"{op} transB" if transposed else op)


def needs_integers(layer: str, reason: str) -> TargetError:
    """Return the refusal of a layer that would read floats, for a target on which it must not."""
    hint = "leave it out with an exclude pass, or use a recipe that quantizes activations"
    return TargetError(f"{layer}: the target needs integer activations, but {reason}; {hint}")
