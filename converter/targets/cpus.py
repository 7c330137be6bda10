"""Targets that run on onnxruntime's own CPU kernels, on a processor or in a browser."""

import dataclasses
from types import MappingProxyType

from converter.targets.shared_facts import CPU_RULES, CPU_TIMES, sources_of
from converter.targets.sources import (
    ADDS,
    CAST_INT2,
    CAST_INT4,
    COMPATIBILITY,
    CONFORMANCE,
    CONTRIB,
    CPU_KERNELS,
    FOLDED,
    INSPECTED,
    KERNELS,
    LEAKY_RELU,
    LINEAR_AXES,
    MEASURED,
    MLAS,
    ONNX,
    ORT,
    OURS,
    PROCESSOR_SOURCES,
    PROCESSORS,
    QUANTIZATION,
    SIGNED,
    TIMED,
    VERIFIED,
)
from converter.targets.target import Target

__all__ = ["CPU", "CPU_AVX2", "GENERIC", "WEB"]

_CPU = dataclasses.replace(CPU_TIMES, leaky_relu_as_sum=True)

CPU = Target(
    "cpu",
    "onnxruntime CPU execution provider: uint8 activations, int8 per-channel weights",
    _CPU,
    runtime="onnxruntime 1.23",
    matmulnbits=True,
    provider="cpu",
    variants=PROCESSORS,
    sources=sources_of(
        (CPU_KERNELS, ("linear", "compute", "moving", "fused_adds")),
        (INSPECTED, ("float_outputs", "on_demand", "scalars")),
        (CONFORMANCE, ("conv_dims", "no_float", "static_shapes")),
        (OURS, ("symmetric", "weight_zero_points", "whole")),
        absorbable=f"{INSPECTED}; a Relu is dropped where the zero point is the smallest code",
        signed=SIGNED,
        reads_by_channel=f"{ORT}optimizer/qdq_transformer/weight_bias_quantization.cc",
        bias=f"{ONNX}onnx__QLinearConv.html",
        weight_types=f"{QUANTIZATION}: U8U8, U8S8 and S8S8",
        channel_axes=LINEAR_AXES,
        float16=f"{KERNELS}: Conv and Gemm of the CPU are float and double",
        activation_bits=f"{INSPECTED}: layers of 16 bits are dequantized and run in float",
        narrowest=f"{VERIFIED} of a file of 2-bit weights; Cast(INT2): {CAST_INT2}, opset 25, onnxruntime 1.24",
        weight_only=FOLDED,
        runtime=f"{MEASURED}, on 1.23.0; Cast(INT4) is newer than 1.22: {CAST_INT4}",
        int4=f"{INSPECTED}; a layer behind DequantizeLinear(INT4) is dequantized on every run",
        matmulnbits=CONTRIB,
        opset=COMPATIBILITY,
        provider="the onnxruntime package",
        variants=PROCESSOR_SOURCES,
        channels_last=INSPECTED,
        leaky_relu_as_sum=LEAKY_RELU,
        pair_sum=ADDS,
        times=TIMED,
    ),
)

WEB = Target(
    "web",
    "onnxruntime-web on WebAssembly: takes what the CPU takes",
    dataclasses.replace(CPU_RULES, weight_types=frozenset({"int8"})),
    runtime="onnxruntime-web 1.30",
    matmulnbits=True,
    provider="web",
    sources=sources_of(
        (CONFORMANCE, ("linear", "compute", "moving", "conv_dims", "static_shapes", "no_float", "channel_axes")),
        (CONFORMANCE, ("weight_types", "float_outputs", "fused_adds", "matmulnbits")),
        (MEASURED, ("signed", "int4", "bias", "absorbable")),
        (OURS, ("symmetric", "weight_zero_points", "whole")),
        (f"{OURS}; the same files as for the CPU", ("on_demand", "scalars", "reads_by_channel")),
        narrowest=f"{VERIFIED} of a file of 2-bit weights",
        weight_only=FOLDED,
        opset=COMPATIBILITY,
        runtime=f"{MEASURED}; older versions were not run",
        provider="the onnxruntime-web package, in node and in Chromium",
        variants="WebAssembly only; WebGPU and WebNN were not run",
        pair_sum=ADDS,
    ),
)

GENERIC = Target(
    "generic",
    "any onnxruntime from 1.20: int8 storage whatever the bits, no operator outside the ONNX standard",
    dataclasses.replace(CPU_TIMES, narrowest=8),
    runtime="onnxruntime 1.20",
    int4="none",
    opset=21,
    provider="cpu",
    variants=PROCESSORS,
    sources=sources_of(
        (CPU_KERNELS, ("linear", "compute", "moving", "fused_adds")),
        (CONFORMANCE, ("conv_dims", "no_float", "static_shapes", "float_outputs", "absorbable", "bias")),
        (OURS, ("symmetric", "weight_zero_points", "whole", "matmulnbits")),
        (f"{OURS}; the same layers as for the CPU", ("on_demand", "scalars", "reads_by_channel")),
        signed=SIGNED,
        weight_types=f"{QUANTIZATION}: U8U8, U8S8 and S8S8",
        channel_axes=LINEAR_AXES,
        narrowest=f"Cast(INT4) is newer than 1.22: {CAST_INT4}",
        int4=f"Cast(INT4) is newer than 1.22, {CAST_INT4}, so codes are stored as INT8",
        weight_only=FOLDED,
        opset=COMPATIBILITY,
        runtime=f"{CONFORMANCE}, on 1.20.1",
        provider="the onnxruntime package",
        variants=PROCESSOR_SOURCES,
        channels_last=INSPECTED,
        pair_sum=ADDS,
        times=TIMED,
    ),
)

CPU_AVX2 = dataclasses.replace(
    CPU,
    name="cpu-avx2",
    description="onnxruntime CPU execution provider on x86 without VNNI: as cpu, with sums that fit its kernels",
    rules=dataclasses.replace(_CPU, pair_sum=128),
    sources=MappingProxyType({**CPU.sources, "pair_sum": f"{MLAS}: 255 times 128 fits 16 bits"}),
)
