"""Targets that no runtime here can run: their facts come from documents and source code alone."""

import dataclasses
from types import MappingProxyType

from converter.targets.shared_facts import (
    AXES,
    AXES_TRANSPOSED,
    CLAMPS,
    CPU_RULES,
    EITHER,
    FLOAT_RULES,
    MOVING,
    sources_of,
)
from converter.targets.sources import (
    ACL,
    ADDS,
    COMPATIBILITY,
    COREML,
    COREML_OPERATORS,
    CPU_KERNELS,
    DIRECTML,
    DIRECTML_OPERATORS,
    DML,
    DOCS,
    FOLDED,
    GITHUB,
    KERNELS,
    LINEAR_AXES,
    NNCF_NPU,
    NPU_DEVICE,
    NPU_STRIPPING,
    OPENVINO_PROVIDER,
    ORT,
    OURS,
    QUARK,
    RYZEN_AI,
    SELECTORS,
    VITIS_OPERATORS,
    XNNPACK,
)
from converter.targets.target import Target
from passes.ir.rules import Rules

__all__ = ["ACL_CPU", "COREML_APPLE", "DIRECTML_GPU", "OPENVINO_NPU", "VITISAI", "XNNPACK_CPU"]

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

DIRECTML_GPU = Target(
    "directml",
    "Windows GPUs by onnxruntime's DirectML provider: uint8 activations, integer Conv and MatMul, no Gemm, no 4 bits",
    Rules(
        linear=frozenset({"Conv", "MatMul"}),
        compute=frozenset({"Add", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid"}),
        moving=MOVING,
        absorbable=CLAMPS,
        float_outputs=frozenset({"MatMul"}),
        on_demand=True,
        conv_dims=frozenset({1, 2}),
        narrowest=8,
        weight_types=EITHER,
        channel_axes=AXES,
    ),
    runtime="onnxruntime-directml 1.24",
    int4="none",
    float16="compute",
    opset=21,
    variants=MappingProxyType(
        {
            "1.23.2 and older": "crash where a Softmax or a LeakyRelu stands between integers",
            "session.disable_quant_qdq": "0 is needed; with 1, which older versions set by themselves, all is float",
        }
    ),
    sources=sources_of(
        (
            f"{CPU_KERNELS}: rules for kDmlExecutionProvider; {KERNELS}: kernels of DmlExecutionProvider",
            ("linear", "compute", "moving", "float_outputs"),
        ),
        (f"{SELECTORS}: ConvNodeGroupSelector", ("signed", "bias", "fused_adds")),
        (OURS, ("symmetric", "weight_zero_points", "whole", "on_demand", "scalars", "reads_by_channel")),
        (f"{KERNELS}: QLinearConv and QLinearMatMul of DmlExecutionProvider", ("weight_types", "activation_bits")),
        absorbable=f"{ORT}optimizer/graph_transformer_utils.cc: ClipQuantFusion, ReluQuantFusion",
        conv_dims=f"{DML}DmlOperatorQLinearConv.cpp: 2-D, and 1-D as 2-D",
        channel_axes=f"{DIRECTML_OPERATORS}ns-directml-dml_quantized_linear_convolution_operator_desc and "
        "ns-directml-dml_quantized_linear_matrix_multiply_operator_desc: a scale for each output",
        narrowest=f"{SELECTORS}: weights of 4 bits are not fused, so codes are stored as INT8",
        int4=f"{SELECTORS}: weights of 4 bits are not fused, so codes are stored as INT8",
        weight_only=FOLDED,
        matmulnbits=f"{DML}DmlOperatorMatMulNBits.cpp wants four inputs; files here give three, without zero points",
        no_float=f"{DIRECTML}: what DirectML does not take runs on the CPU",
        static_shapes=f"{DIRECTML}: fastest with fixed shapes, and takes others",
        opset=f"{KERNELS}: DmlExecutionProvider has DequantizeLinear of 21, and no Conv and no MaxPool of 22",
        float16=f"{KERNELS}: Conv, Gemm and MatMul of DmlExecutionProvider take float16",
        runtime=f"ours: newer than 1.23.2, which crashes at Softmax and LeakyRelu: {GITHUB}issues/26882, "
        f"mended by {GITHUB}pull/26822",
        provider="needs Windows and a GPU with DirectX 12: only the rules are checked",
        variants=f"{GITHUB}issues/26882; {GITHUB}pull/15725",
        pair_sum=ADDS,
    ),
)

OPENVINO_NPU = Target(
    "openvino-npu",
    "Intel NPUs by onnxruntime's OpenVINO provider: fixed shapes, uint8 activations, integer Conv, MatMul and Add",
    Rules(
        linear=frozenset({"Conv", "MatMul"}),
        compute=frozenset({"Add"}),
        moving=MOVING,
        absorbable=CLAMPS,
        conv_dims=frozenset({2}),
        narrowest=8,
        channel_axes=AXES,
    ),
    runtime="onnxruntime-openvino 1.24.1",
    int4="none",
    float16="compute",
    static_shapes=True,
    variants=MappingProxyType(
        {
            "NPU_QDQ_OPTIMIZATION": "keeps integers around Conv, MatMul and Add only, and float16 elsewhere; "
            "without it the compiler gets every QuantizeLinear",
        }
    ),
    sources=sources_of(
        (f"{NNCF_NPU}, and what {NPU_STRIPPING} keeps", ("linear", "compute", "moving")),
        (f"{NPU_DEVICE}: quantized data types U8, computation in FP16", ("signed", "float16", "no_float")),
        (f"{NNCF_NPU}: activations of 8 bits, symmetric or not, weights of 8 bits", ("symmetric", "weight_types")),
        (OURS, ("weight_zero_points", "on_demand", "scalars", "reads_by_channel", "bias", "fused_adds")),
        activation_bits=f"{NPU_STRIPPING}: 16 bits are always removed; {GITHUB}pull/20622",
        float_outputs=f"{OURS}; every result of an integer layer is rounded",
        absorbable="ours: the quantizer behind a clamp saturates as it does",
        conv_dims=f"ours: all networks that {OPENVINO_PROVIDER} names for NPUs have 2-D convolutions",
        channel_axes=f"{NNCF_NPU}: weights per channel; {LINEAR_AXES}",
        narrowest=f"{OURS}; integer layers of 4 bits are not described for ONNX files",
        int4=f"{OURS}; integer layers of 4 bits are not described for ONNX files, so codes are stored as INT8",
        weight_only=FOLDED,
        matmulnbits="ours: not known to be supported",
        static_shapes=f"{NPU_DEVICE}: only models with static shapes are supported on NPU",
        opset=COMPATIBILITY,
        runtime=f"{OPENVINO_PROVIDER}: the newest version there; older ones were not read about",
        whole=f"{OPENVINO_PROVIDER}: for NPU, operators that are not supported run on the CPU",
        provider="needs an Intel NPU: only the rules are checked",
        variants=f"{OPENVINO_PROVIDER}: enable_qdq_optimizer; {NPU_STRIPPING}",
        pair_sum=ADDS,
    ),
)

_FLOAT_FACTS = (
    "linear",
    "compute",
    "moving",
    "absorbable",
    "signed",
    "symmetric",
    "float_outputs",
    "fused_adds",
    "on_demand",
    "scalars",
    "reads_by_channel",
    "bias",
    "conv_dims",
    "weight_types",
    "weight_zero_points",
    "channel_axes",
    "pair_sum",
)

COREML_APPLE = Target(
    "coreml",
    "Apple devices by onnxruntime's CoreML provider: float activations, in recipe fp16 or with weights of 8 bits",
    FLOAT_RULES,
    runtime="onnxruntime 1.21",
    int4="none",
    float16="compute",
    floats_only="onnxruntime's CoreML provider takes no QuantizeLinear and no DequantizeLinear",
    variants=MappingProxyType(
        {
            "ModelFormat": "give MLProgram: with NeuralNetwork, the default, float16 nodes are left to the CPU",
            "1.23.1": "its packages for macOS leave float16 nodes to the CPU with MLProgram too",
            "builders": "those that end at opset 20 leave Reshape, Transpose, Squeeze and Cast of 21 to the CPU",
        }
    ),
    sources=sources_of(
        (f"{COREML}op_builder_factory.cc: it takes floats only", _FLOAT_FACTS),
        floats_only=f"{COREML}op_builder_factory.cc, {COREML_OPERATORS}",
        narrowest=f"{OURS}; weights become floats when the file loads",
        int4=f"{OURS}; codes are stored as INT8",
        weight_only=FOLDED,
        matmulnbits=COREML_OPERATORS,
        no_float=f"{DOCS}execution-providers/CoreML-ExecutionProvider.html: the CPU runs the rest",
        static_shapes=f"{DOCS}api/objectivec/Classes/ORTCoreMLExecutionProviderOptions.html: dynamic shapes are "
        "allowed, and may be slower",
        float16=f"{COREML}impl/base_op_builder.cc: only MLProgram supports FP16; {GITHUB}pull/22068",
        opset=f"{COMPATIBILITY}; {COREML}impl/base_op_builder.h: GetMaxSupportedOpSet is that of operators",
        runtime=f"{GITHUB}issues/26327: its packages ran float16",
        whole=OURS,
        provider="needs an Apple device: only the rules are checked",
        variants=f"{COREML}impl/base_op_builder.cc and base_op_builder.h; {GITHUB}issues/26327",
    ),
)

ACL_CPU = Target(
    "acl",
    "Arm Compute Library in onnxruntime: float activations, in recipe fp16 or with weights of 8 bits; fixed shapes",
    FLOAT_RULES,
    runtime="onnxruntime 1.21",
    int4="none",
    float16="compute",
    static_shapes=True,
    floats_only="onnxruntime's ACL provider takes no integer weights with a scale for each channel",
    sources=sources_of(
        (f"{ACL}acl_execution_provider.cc and {ACL}nn/conv.cc: ParseConv", _FLOAT_FACTS),
        floats_only=f"{ACL}nn/conv.cc: ParseConv refuses more than one scale, Conv refuses mutable weights; "
        f"{GITHUB}pull/22823",
        narrowest=f"{OURS}; weights become floats when the file loads",
        int4=f"{OURS}; codes are stored as INT8",
        weight_only=FOLDED,
        matmulnbits=f"{ACL}acl_execution_provider.cc: no such kernel",
        no_float=f"{ACL}acl_execution_provider.cc: GetCapability leaves the rest to the CPU",
        static_shapes=f"{ACL}acl_common.cc: GetArgShape",
        float16=f"{ACL}nn/conv.cc and {ACL}math/matmul.cc: Conv and MatMul take float16; other operators have float32",
        opset=COMPATIBILITY,
        runtime=f"ours: the release after {GITHUB}pull/22823; it must be built from source, "
        f"{DOCS}execution-providers/community-maintained/ACL-ExecutionProvider.html",
        whole=OURS,
        provider="needs an Arm device: only the rules are checked",
        variants=f"one provider for all Arm CPUs; that of ArmNN was removed from onnxruntime: {GITHUB}pull/27447",
    ),
)
