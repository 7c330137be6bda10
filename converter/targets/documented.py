"""Targets that no runtime here can run: their facts come from documents and source code alone.

onnxruntime's CoreML provider has builders of float operators only, so it needs no target: `fp16` for `cuda` is such a
file. DirectML is in sustained engineering, and Intel's NPU takes what `openvino` takes, in fixed shapes.
"""

import dataclasses
from types import MappingProxyType

from converter.targets.shared_facts import AXES, AXES_TRANSPOSED, CLAMPS, CPU_RULES, MOVING, sources_of
from converter.targets.sources import (
    ADDS,
    COMPATIBILITY,
    DOCS,
    FOLDED,
    LINEAR_AXES,
    OURS,
    QUARK,
    RYZEN_AI,
    VITIS_OPERATORS,
    XNNPACK,
)
from converter.targets.target import Target
from passes.ir.rules import Rules

__all__ = ["VITISAI", "XNNPACK_CPU"]

VITISAI = Target(
    "vitisai",
    "AMD Ryzen AI NPU by onnxruntime's Vitis AI provider: signed symmetric activations of 8 or 16 bits",
    Rules(
        linear=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
        compute=frozenset({"Add", "Concat", "AveragePool", "GlobalAveragePool"}),
        moving=MOVING,
        absorbable=CLAMPS,
        signed=True,
        symmetric=True,
        activation_bits=frozenset({8, 16}),
        conv_dims=frozenset({2}),
        narrowest=8,
        channel_axes=AXES_TRANSPOSED,
    ),
    runtime="Ryzen AI 1.4",
    int4="none",
    static_shapes=True,
    variants=MappingProxyType(
        {
            "A8W8, A16W8": "int8 or int16 activations with float scales, as written here",
            "XINT8": "uint8 activations and scales that are powers of two; such files are not written",
            "BF16": "compiles a float32 model; give it the float model",
        }
    ),
    sources=sources_of(
        (VITIS_OPERATORS, ("linear", "compute", "moving", "conv_dims")),
        (f"{QUARK}: A8W8_CONFIG and A16W8_CONFIG", ("signed", "symmetric", "weight_types", "weight_zero_points")),
        (
            f"{OURS}; every tensor between integer operators is quantized",
            ("float_outputs", "fused_adds", "on_demand", "scalars", "reads_by_channel", "static_shapes"),
        ),
        (f"{RYZEN_AI}: other subgraphs run on the CPU", ("no_float", "whole", "runtime")),
        activation_bits=f"{QUARK}: A8W8_CONFIG and A16W8_CONFIG",
        absorbable=f"{QUARK}: FoldRelu",
        bias="ours: int32, as Quark writes it",
        channel_axes=LINEAR_AXES,
        narrowest=f"{QUARK}: weights of 8 bits, so codes of 4 are stored as INT8",
        int4=f"{QUARK}: weights of 8 bits",
        weight_only=FOLDED,
        matmulnbits="ours: not known to be supported",
        opset=f"{RYZEN_AI}: recommends 17; 21 has the 16-bit types without custom operators",
        provider="needs an AMD NPU: only the rules are checked",
        variants=QUARK,
        pair_sum=ADDS,
    ),
)

XNNPACK_CPU = Target(
    "xnnpack",
    "XNNPACK in onnxruntime for Arm: int8 activations, int8 per-channel weights, fixed shapes; the CPU runs the rest",
    dataclasses.replace(
        CPU_RULES,
        signed=True,
        conv_dims=frozenset({2}),
        narrowest=8,
        weight_types=frozenset({"int8"}),
        channel_axes=AXES,
    ),
    runtime="onnxruntime-android 1.20",
    int4="none",
    static_shapes=True,
    sources=sources_of(
        (f"{XNNPACK}nn/conv_base.cc: GetConvCompType", ("signed", "weight_types", "bias")),
        (f"{XNNPACK}nn/conv_base.cc: IsOnnxNodeSupported", ("conv_dims", "static_shapes", "weight_zero_points")),
        (
            f"{XNNPACK}detail/node_support_checker.cc for Conv; for others the int8 kernels of the CPU on Arm",
            ("linear", "compute", "moving"),
        ),
        (OURS, ("symmetric", "whole", "matmulnbits")),
        (f"{OURS}; as the CPU's kernels have it", ("float_outputs", "fused_adds", "absorbable", "no_float")),
        (f"{OURS}; the same layers as for the CPU", ("on_demand", "scalars", "reads_by_channel")),
        channel_axes=LINEAR_AXES,
        narrowest=f"{XNNPACK}nn/conv_base.cc: 8 bits only",
        int4=f"{XNNPACK}nn/conv_base.cc: 8 bits only, so codes are stored as INT8",
        weight_only=FOLDED,
        opset=COMPATIBILITY,
        runtime=f"ours: it has operator set 21, {COMPATIBILITY}; older versions were not tried",
        provider="needs an Arm device: only the rules are checked",
        variants=f"{DOCS}execution-providers/Xnnpack-ExecutionProvider.html",
        pair_sum=ADDS,
    ),
)
