"""Targets with kernels of their own: GPUs, NPUs, phones, and other makers' libraries for CPUs."""

import dataclasses
from types import MappingProxyType

from converter.targets.shared_facts import AXES, AXES_TRANSPOSED, CLAMPS, CPU_RULES, EITHER, MOVING, sources_of
from converter.targets.sources import (
    ADDS,
    CAST_INT2,
    CAST_INT4,
    COMPATIBILITY,
    CONFORMANCE,
    CONTRIB,
    CUDA,
    DOCS,
    FOLDED,
    GITHUB,
    KERNELS,
    LINEAR_AXES,
    MEASURED,
    NNAPI,
    OURS,
    QNN,
    TENSORRT,
    TENSORRT_OPERATORS,
    TENSORRT_QDQ,
    TENSORRT_TYPES,
    VERIFIED,
    XNNPACK,
)
from converter.targets.target import Target
from passes.ir.rules import Rules

__all__ = ["CUDA_GPU", "MOBILE", "OPENVINO", "QNN_HTP", "TENSORRT_GPU"]

OPENVINO = Target(
    "openvino",
    "onnxruntime OpenVINO execution provider: what the CPU takes, and transposed convolutions",
    dataclasses.replace(
        CPU_RULES,
        linear=CPU_RULES.linear | {"ConvTranspose"},
        weight_types=frozenset({"int8"}),
        channel_axes=AXES_TRANSPOSED,
    ),
    runtime="onnxruntime-openvino 1.24.1",
    opset=25,
    provider="openvino",
    sources=sources_of(
        (CONFORMANCE, ("linear", "compute", "moving", "conv_dims", "static_shapes", "no_float", "channel_axes")),
        (CONFORMANCE, ("weight_types", "float_outputs", "fused_adds")),
        (MEASURED, ("signed", "int4", "bias", "absorbable")),
        (OURS, ("symmetric", "weight_zero_points", "whole", "matmulnbits")),
        (f"{OURS}; the same files as for the CPU", ("on_demand", "scalars", "reads_by_channel")),
        narrowest=f"{VERIFIED} of a file of 2-bit weights",
        weight_only=FOLDED,
        opset=f"{CONFORMANCE}, up to 25",
        runtime=f"{MEASURED}; older versions were not run",
        provider="the onnxruntime-openvino package, device CPU",
        variants="device CPU only; its GPUs and NPUs were not run",
        pair_sum=ADDS,
    ),
)

QNN_HTP = Target(
    "qnn",
    "Qualcomm HTP by onnxruntime's QNN execution provider: fixed shapes, every output quantized, no CPU fallback",
    dataclasses.replace(
        CPU_RULES,
        linear=CPU_RULES.linear | {"ConvTranspose"},
        compute=CPU_RULES.compute | {"HardSwish", "Gelu"},
        float_outputs=frozenset(),
        on_demand=False,
        scalars=False,
        reads_by_channel=False,
        activation_bits=frozenset({8, 16}),
        no_float=frozenset({"Conv 3-D", "ConvTranspose 3-D", "Gelu", "Resize nearest"}),
        weight_types=frozenset({"int8"}),
        channel_axes=AXES_TRANSPOSED,
    ),
    runtime="onnxruntime 1.31 with onnxruntime-qnn 2.7",
    float16="compute",
    static_shapes=True,
    whole=True,
    provider="qnn",
    sources=sources_of(
        (CONFORMANCE, ("linear", "compute", "moving", "conv_dims", "weight_types", "channel_axes")),
        (MEASURED, ("int4", "bias", "absorbable")),
        (OURS, ("symmetric", "weight_zero_points", "fused_adds", "on_demand", "scalars", "reads_by_channel")),
        (QNN, ("signed", "matmulnbits")),
        narrowest=f"{VERIFIED} of a file of 2-bit weights",
        weight_only=FOLDED,
        no_float=f"{VERIFIED} of a file that has one: it fails to finalize (onnxruntime-qnn 2.7, HTP on x86)",
        float_outputs=f"{VERIFIED} of a cpu file: a Gemm that writes floats is left (onnxruntime-qnn 2.7)",
        activation_bits=f"{CONFORMANCE}, recipes a16w8 and a16w4",
        static_shapes=f"{VERIFIED} of a cpu file: with an open batch no node is taken (onnxruntime-qnn 2.7)",
        opset=COMPATIBILITY,
        runtime=f"{MEASURED}; older versions were not run",
        float16=f"{VERIFIED} of a file of recipe fp16",
        whole="session.disable_cpu_ep_fallback=1",
        provider="the onnxruntime-qnn package, its HTP library on x86",
        variants="the HTP library on x86 only; no phone was run",
        pair_sum=ADDS,
    ),
)

TENSORRT_GPU = Target(
    "tensorrt",
    "NVIDIA TensorRT: int8 activations and weights with zero point 0, float biases, Adds fused before rounding",
    Rules(
        linear=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
        compute=frozenset({"Add", "Concat", "AveragePool", "GlobalAveragePool"}),
        moving=MOVING,
        absorbable=CLAMPS,
        signed=True,
        symmetric=True,
        float_outputs=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
        fused_adds=True,
        conv_dims=frozenset({2, 3}),
        bias="float",
        narrowest=8,
        weight_only=False,
        channel_axes=AXES_TRANSPOSED,
    ),
    runtime="TensorRT 11.5",
    float16="compute",
    int4="none",
    opset=25,
    sparsity="2:4",
    sources=sources_of(
        (TENSORRT_OPERATORS, ("linear", "compute", "moving", "conv_dims", "no_float", "matmulnbits")),
        (TENSORRT_TYPES, ("signed", "symmetric", "weight_zero_points", "weight_types")),
        (TENSORRT_QDQ, ("fused_adds", "float_outputs", "absorbable", "weight_only", "channel_axes")),
        (OURS, ("on_demand", "scalars", "reads_by_channel", "whole")),
        bias=f"{TENSORRT_OPERATORS}: DequantizeLinear reads INT8, INT4 and FP8, not INT32",
        narrowest=f"{TENSORRT_TYPES}: INT4 is weight-only",
        int4=f"{TENSORRT_TYPES}: INT4 is weight-only; codes of layers on integers are stored as INT8",
        opset=f"{TENSORRT}reference/onnx-opset-guide.html: TensorRT 11.x",
        float16=TENSORRT_OPERATORS,
        runtime="https://github.com/NVIDIA/TensorRT/releases/tag/v11.5: adds opset 25",
        sparsity=f"{TENSORRT}inference-library/data-formats-tensors.html: two zeros in every four input channels",
        provider="needs an NVIDIA GPU: only the rules are checked",
        variants="GPUs are not told apart",
        static_shapes=TENSORRT_OPERATORS,
        pair_sum=ADDS,
    ),
)

CUDA_GPU = Target(
    "cuda",
    "onnxruntime CUDA execution provider: float activations, since it has no integer convolution",
    Rules(
        linear=frozenset(),
        compute=frozenset(),
        moving=frozenset(),
        absorbable=frozenset(),
        narrowest=4,
        weight_types=frozenset(),
        channel_axes=MappingProxyType({}),
    ),
    runtime="onnxruntime-gpu 1.23",
    float16="compute",
    matmulnbits=True,
    sources=sources_of(
        (
            f"no QLinearConv is registered: {CUDA}",
            ("linear", "compute", "moving", "absorbable", "signed", "symmetric", "float_outputs", "fused_adds"),
        ),
        (
            "no layer runs on integers",
            ("on_demand", "scalars", "reads_by_channel", "bias", "conv_dims", "weight_types", "channel_axes"),
        ),
        (f"{DOCS}execution-providers/CUDA-ExecutionProvider.html", ("no_float", "static_shapes")),
        (FOLDED, ("weight_only", "int4")),
        (OURS, ("weight_zero_points", "whole")),
        narrowest=f"ours: INT2 would need opset 25 and onnxruntime 1.24, {CAST_INT2}",
        runtime=f"Cast(INT4) is newer than 1.22: {CAST_INT4}",
        float16=f"{KERNELS}: Conv, Gemm and MatMul of CUDA take float16",
        matmulnbits=CONTRIB,
        opset=COMPATIBILITY,
        provider="needs an NVIDIA GPU: only the rules are checked",
        variants="GPUs are not told apart",
        pair_sum=ADDS,
    ),
)

MOBILE = Target(
    "mobile",
    "Android NNAPI by onnxruntime: uint8 activations, fixed shapes, 2-D convolutions, every output quantized",
    Rules(
        linear=frozenset({"Conv", "Gemm", "MatMul"}),
        compute=frozenset({"Add", "Mul", "Concat", "AveragePool"}),
        moving=frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Resize"}),
        absorbable=CLAMPS,
        conv_dims=frozenset({2}),
        narrowest=8,
        weight_types=EITHER,
        channel_axes=AXES,
    ),
    runtime="onnxruntime-android 1.20",
    int4="none",
    static_shapes=True,
    variants=MappingProxyType(
        {
            "NNAPI": "reads uint8 activations with uint8 or int8 weights",
            "XNNPACK": "reads int8 with int8 weights, or uint8 with uint8 weights per tensor, in Conv and "
            "ConvTranspose (2-D, constant weights and biases), pools, Softmax and Resize; uint8 with int8, as "
            "written here, it leaves to the CPU",
        }
    ),
    sources=sources_of(
        (f"{NNAPI}helper.cc", ("linear", "compute", "moving", "float_outputs")),
        (
            f"{NNAPI}helper.cc: HasValidBinaryOpQuantizedInputTypes",
            ("signed", "weight_types", "narrowest", "symmetric"),
        ),
        (OURS, ("fused_adds", "on_demand", "scalars", "reads_by_channel", "weight_zero_points", "whole")),
        absorbable="ours: the quantizer behind a clamp saturates as it does",
        static_shapes=f"{NNAPI}impl/base_op_builder.cc: HasSupportedInputOutputs",
        conv_dims=f"{NNAPI}impl/conv_op_builder.cc",
        bias=f"{NNAPI}impl/gemm_op_builder.cc: the bias of a quantized Gemm is int32",
        channel_axes=f"{GITHUB}pull/6155 and {LINEAR_AXES}",
        no_float="the CPU runs what NNAPI does not take",
        int4=f"{NNAPI}helper.cc: 8 bits only, so codes are stored as INT8",
        weight_only=FOLDED,
        matmulnbits=f"{NNAPI}op_builder_factory.cc",
        opset=COMPATIBILITY,
        runtime=f"ours: it has operator set 21, {COMPATIBILITY}; older versions were not tried",
        provider="needs an Android device: only the rules are checked",
        variants=f"{NNAPI}helper.cc; {XNNPACK}nn/conv_base.cc, {DOCS}execution-providers/"
        "Xnnpack-ExecutionProvider.html",
        pair_sum=ADDS,
    ),
)
