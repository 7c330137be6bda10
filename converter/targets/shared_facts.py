"""Facts that several targets share: operators, axes of scales, the rules of onnxruntime's CPU kernels, and sources."""

import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from converter.targets.sources import OURS, QUANTIZED, UNTIMED
from passes.ir.rules import Rules
from passes.numerics.kernel_times import KernelTimes

__all__ = [
    "AXES",
    "AXES_TRANSPOSED",
    "CLAMPS",
    "CPU_RULES",
    "CPU_TIMES",
    "EITHER",
    "FLOAT_RULES",
    "MOVING",
    "sources_of",
]

MOVING = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Resize", "Split"})
CLAMPS = frozenset({"Relu", "Clip"})
_MATRIX_AXES = {"Gemm": 1, "Gemm transB": 0, "MatMul": 1}
AXES = MappingProxyType({"Conv": 0, **_MATRIX_AXES})
AXES_TRANSPOSED = MappingProxyType({"Conv": 0, "ConvTranspose": 1, **_MATRIX_AXES})
EITHER = frozenset({"int8", "uint8"})

CPU_RULES = Rules(
    linear=frozenset({"Conv", "Gemm", "MatMul"}),
    compute=frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu", "Softmax"}),
    moving=MOVING,
    absorbable=CLAMPS,
    float_outputs=frozenset({"Gemm", "MatMul"}),
    on_demand=True,
    scalars=True,
    reads_by_channel=True,
    weight_types=EITHER,
    channel_axes=AXES,
)
FLOAT_RULES = Rules(
    linear=frozenset(),
    compute=frozenset(),
    moving=frozenset(),
    absorbable=frozenset(),
    narrowest=8,
    weight_types=frozenset(),
    channel_axes=MappingProxyType({}),
)
CPU_TIMES = dataclasses.replace(CPU_RULES, times=KernelTimes(), channels_last=True, gathers_codes=True)


def sources_of(*groups: tuple[str, Iterable[str]], **facts: str) -> Mapping[str, str]:
    """Sources by fact: first those that targets share unless they say otherwise, then those that facts share."""
    ours = ("activation_bits", "float16", "gathers_codes", "leaky_relu_as_sum", "sparsity", "wide_ranges", "wide_silu")
    others = dict.fromkeys(ours, OURS)
    others |= dict.fromkeys(("channels_last", "times"), UNTIMED)
    others["floats_only"] = QUANTIZED
    shared = others | {fact: source for source, names in groups for fact in names}
    return MappingProxyType(shared | facts)
