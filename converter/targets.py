"""What each execution provider takes, as data. Writers and passes read it; nothing else knows a target's name.

Every fact has a source, by the name of its field: a page, a file of the provider's source code, or the command that
measured it. `python -m benchmarks.targets` measures them again.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from converter.emit.weights import Storage
from passes.errors import TargetError
from passes.placement import Rules

__all__ = ["TARGETS", "Target", "find_target"]


@dataclass(frozen=True)
class Target:
    """A deployment target.

    Attributes:
        name: how it is asked for.
        description: one line.
        rules: its integer kernels; see `passes.placement.Rules`.
        runtime: oldest version of the runtime that takes what is written.
        int4: form of 4-bit weights: cast to INT8, read by DequantizeLinear, or none: stored as INT8.
        matmulnbits: whether it runs the MatMulNBits operator.
        static_shapes: no dimension may be open; the batch becomes 1.
        opset: newest operator set it takes; None: whatever its onnxruntime does.
        whole: the provider has to take every node.
        provider: which provider runs it on this kind of machine; None: only its rules can be checked.
        sources: where each of these facts comes from, by field; `Rules` fields too.
    """

    name: str
    description: str
    rules: Rules
    runtime: str
    int4: Literal["cast", "dequantize", "none"] = "cast"
    matmulnbits: bool = False
    static_shapes: bool = False
    opset: int | None = None
    whole: bool = False
    provider: Literal["cpu", "openvino", "qnn", "web"] | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    def storage(self, wanted: Storage) -> Storage:
        """The form of weights in the file where the recipe wants this one."""
        if wanted == "matmulnbits" and self.matmulnbits:
            return wanted
        if wanted == "packed" and self.int4 == "cast" and self.rules.narrowest == 2:
            return wanted
        if wanted in {"int8", "dequantize"}:
            return wanted
        return "int8" if self.int4 == "none" else self.int4


_ORT = "https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/"
_CPU_KERNELS = f"{_ORT}optimizer/qdq_transformer/selectors_actions/qdq_selector_action_transformer.cc"
_NNAPI = f"{_ORT}providers/nnapi/nnapi_builtin/builders/"
_TENSORRT = "https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/"
_TENSORRT_OPERATORS = "https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md"
_CUDA = "https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html"
_QNN = "https://onnxruntime.ai/docs/execution-providers/QNN-ExecutionProvider.html"
_CONFORMANCE = "measured: make conformance"
_MEASURED = "measured: python -m benchmarks.targets measure"
_OURS = "ours: a choice, not a limit of the target"

_MOVING = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Resize", "Split"})
_CLAMPS = frozenset({"Relu", "Clip"})

_PLACEMENT = ("on_demand", "scalars", "reads_by_channel")

_CPU = Rules(
    linear=frozenset({"Conv", "Gemm", "MatMul"}),
    compute=frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu", "Softmax"}),
    moving=_MOVING,
    absorbable=_CLAMPS,
    float_outputs=frozenset({"Gemm", "MatMul"}),
    on_demand=True,
    scalars=True,
    reads_by_channel=True,
    weight_types=frozenset({"int8", "uint8"}),
)

_CPU_SOURCES = MappingProxyType(
    {
        "linear": _CPU_KERNELS,
        "compute": _CPU_KERNELS,
        "moving": _CPU_KERNELS,
        "absorbable": "measured: convert-onnx inspect; a Relu is dropped where the zero point is the smallest code",
        "signed": "measured: ResNet-18 is 3.0x faster than float with uint8 activations, 1.1x with int8 (AVX-512 VNNI)",
        "symmetric": _OURS,
        "float_outputs": "measured: convert-onnx inspect; QGemm and MatMulIntegerToFloat write floats",
        "fused_adds": _CPU_KERNELS,
        "on_demand": "measured: convert-onnx inspect; MatMulIntegerToFloat and QGemm write floats, unrounded",
        "scalars": "measured: convert-onnx inspect; QLinearAdd and QLinearMul read a scalar",
        "reads_by_channel": f"{_ORT}optimizer/qdq_transformer/weight_bias_quantization.cc",
        "conv_dims": _CONFORMANCE,
        "bias": "https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html",
        "narrowest": "measured: Cast(INT2) is folded when the session loads; opset 25, so onnxruntime 1.24 or newer",
        "weight_only": "measured: Cast -> Mul is folded when the session loads",
        "no_float": _CONFORMANCE,
        "runtime": "measured: int4 files run on onnxruntime 1.23.0; 1.22.1 does not implement Cast(INT4)",
        "int4": "measured: ResNet-18 with DequantizeLinear(INT4) is 2.1x slower than float, with Cast 2.9x faster",
        "matmulnbits": "https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md",
        "static_shapes": _CONFORMANCE,
        "opset": "https://onnxruntime.ai/docs/reference/compatibility.html",
        "channel_axes": _CPU_KERNELS,
        "weight_zero_points": _OURS,
        "weight_types": "https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html: U8S8, U8U8",
        "whole": _OURS,
        "provider": "the onnxruntime package",
    }
)


def _sources(changes: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType({**_CPU_SOURCES, **changes})


_ALL = (
    Target(
        "cpu",
        "onnxruntime CPU execution provider: uint8 activations, int8 per-channel weights",
        _CPU,
        runtime="onnxruntime 1.23",
        matmulnbits=True,
        provider="cpu",
        sources=_CPU_SOURCES,
    ),
    Target(
        "openvino",
        "onnxruntime OpenVINO execution provider: what the CPU takes, and transposed convolutions",
        dataclasses.replace(_CPU, linear=_CPU.linear | {"ConvTranspose"}),
        runtime="onnxruntime-openvino 1.24.1",
        opset=25,
        provider="openvino",
        sources=_sources(
            {
                **dict.fromkeys(("compute", "moving", "static_shapes", "conv_dims"), _CONFORMANCE),
                "linear": "measured: make conformance; float ConvTranspose of 4-bit codes behind quantized activations "
                "is 9 dB wrong on 1.24.1",
                **dict.fromkeys(("signed", "int4", "weight_only", "bias", "absorbable"), _MEASURED),
                "narrowest": "measured: INT2 on onnxruntime-openvino 1.24.1",
                "opset": "measured: onnxruntime-openvino 1.24.1 loads 25 and refuses 26",
                "runtime": f"{_MEASURED}; older versions were not run",
                "matmulnbits": _OURS,
                "provider": "the onnxruntime-openvino package, device CPU",
            }
        ),
    ),
    Target(
        "qnn",
        "Qualcomm HTP by onnxruntime's QNN execution provider: fixed shapes, every output quantized, no CPU fallback",
        dataclasses.replace(
            _CPU,
            linear=_CPU.linear | {"ConvTranspose"},
            compute=_CPU.compute | {"HardSwish", "Gelu"},
            float_outputs=frozenset(),
            on_demand=False,
            scalars=False,
            reads_by_channel=False,
            no_float=frozenset({"Conv 3-D", "ConvTranspose 3-D", "Gelu", "Resize nearest"}),
        ),
        runtime="onnxruntime 1.31 with onnxruntime-qnn 2.7",
        static_shapes=True,
        whole=True,
        provider="qnn",
        sources=_sources(
            {
                **dict.fromkeys(("linear", "compute", "moving", "conv_dims"), _CONFORMANCE),
                "narrowest": "measured: INT2 on onnxruntime-qnn 2.7.0",
                **dict.fromkeys(("int4", "weight_only", "bias", "absorbable"), _MEASURED),
                "signed": _QNN,
                **dict.fromkeys(_PLACEMENT, _OURS),
                "no_float": "measured: make conformance; these fail to finalize (onnxruntime-qnn 2.7, HTP on x86)",
                "float_outputs": "measured: a Gemm that writes floats is left to the CPU (onnxruntime-qnn 2.7)",
                "static_shapes": "measured: with an open batch no node is taken (onnxruntime-qnn 2.7)",
                "runtime": f"{_MEASURED}; older versions were not run",
                "matmulnbits": _QNN,
                "whole": "session.disable_cpu_ep_fallback=1",
                "provider": "the onnxruntime-qnn package, its HTP library on x86",
            }
        ),
    ),
    Target(
        "tensorrt",
        "NVIDIA TensorRT: int8 activations and weights with zero point 0, float biases, Adds fused before rounding",
        Rules(
            linear=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
            compute=frozenset({"Add", "Concat", "AveragePool", "GlobalAveragePool"}),
            moving=_MOVING,
            absorbable=_CLAMPS,
            signed=True,
            symmetric=True,
            float_outputs=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
            fused_adds=True,
            conv_dims=frozenset({2, 3}),
            bias="float",
            narrowest=8,
            weight_only=False,
        ),
        runtime="TensorRT 10.8",
        int4="none",
        opset=25,
        sources=_sources(
            {
                **dict.fromkeys(("linear", "compute", "moving", "conv_dims", "no_float"), _TENSORRT_OPERATORS),
                **dict.fromkeys(
                    ("signed", "symmetric", "weight_zero_points", "weight_types"),
                    f"{_TENSORRT}work-quantized-types.html",
                ),
                **dict.fromkeys(
                    ("fused_adds", "float_outputs", "absorbable", "weight_only", "channel_axes"),
                    f"{_TENSORRT}quantized-types-explicit-quantization.html",
                ),
                **dict.fromkeys(_PLACEMENT, _OURS),
                "bias": f"{_TENSORRT_OPERATORS}: DequantizeLinear reads INT8, INT4 and FP8, not INT32",
                "narrowest": f"{_TENSORRT}work-quantized-types.html: INT4 is weight-only, for matrix multiplications",
                "int4": f"{_TENSORRT}work-quantized-types.html",
                "opset": "https://docs.nvidia.com/deeplearning/tensorrt/latest/reference/onnx-opset-guide.html",
                "runtime": "https://docs.nvidia.com/deeplearning/tensorrt/latest/reference/onnx-opset-guide.html",
                "matmulnbits": _TENSORRT_OPERATORS,
                "static_shapes": _TENSORRT_OPERATORS,
                "provider": "needs an NVIDIA GPU: only the rules are checked",
            }
        ),
    ),
    Target(
        "cuda",
        "onnxruntime CUDA execution provider: float activations, since it has no integer convolution",
        Rules(linear=frozenset(), compute=frozenset(), moving=frozenset(), absorbable=frozenset(), narrowest=4),
        runtime="onnxruntime-gpu 1.23",
        matmulnbits=True,
        sources=_sources(
            {
                **dict.fromkeys(
                    ("linear", "compute", "moving", "absorbable", "signed", "float_outputs", *_PLACEMENT),
                    f"{_ORT}providers/cuda/cuda_execution_provider.cc: no QLinearConv is registered",
                ),
                "weight_only": "the CPU folds Cast -> Mul when the session loads, before nodes go to providers",
                "no_float": "https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html",
                "provider": "needs an NVIDIA GPU: only the rules are checked",
            }
        ),
    ),
    Target(
        "web",
        "onnxruntime-web on WebAssembly: takes what the CPU takes",
        _CPU,
        runtime="onnxruntime-web 1.30",
        matmulnbits=True,
        provider="web",
        sources=_sources(
            {
                **dict.fromkeys(("linear", "compute", "moving", "static_shapes", "conv_dims"), _CONFORMANCE),
                **dict.fromkeys(("signed", "int4", "weight_only", "bias", "absorbable"), _MEASURED),
                "narrowest": "measured: INT2 on onnxruntime-web 1.30.0",
                "runtime": f"{_MEASURED}; older versions were not run",
                "matmulnbits": _CONFORMANCE,
                "provider": "the onnxruntime-web package, in node and in Chromium",
            }
        ),
    ),
    Target(
        "mobile",
        "Android NNAPI by onnxruntime: uint8 activations, fixed shapes, 2-D convolutions, every output quantized",
        Rules(
            linear=frozenset({"Conv", "Gemm", "MatMul"}),
            compute=frozenset({"Add", "Mul", "Concat", "AveragePool"}),
            moving=frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Resize"}),
            absorbable=_CLAMPS,
            conv_dims=frozenset({2}),
            narrowest=8,
            weight_types=frozenset({"int8", "uint8"}),
        ),
        runtime="onnxruntime-android 1.20",
        int4="none",
        static_shapes=True,
        sources=_sources(
            {
                **dict.fromkeys(("linear", "compute", "moving", "float_outputs"), f"{_NNAPI}helper.cc"),
                "signed": f"{_NNAPI}helper.cc: HasValidBinaryOpQuantizedInputTypes; XNNPACK wants int8, and leaves "
                f"these layers to the CPU ({_ORT}providers/xnnpack/nn/conv_base.cc)",
                "static_shapes": f"{_NNAPI}impl/base_op_builder.cc: HasSupportedInputOutputs",
                "conv_dims": f"{_NNAPI}impl/conv_op_builder.cc",
                **dict.fromkeys(_PLACEMENT, _OURS),
                "no_float": "the CPU runs what NNAPI does not take",
                "narrowest": f"{_NNAPI}helper.cc",
                "weight_zero_points": f"{_NNAPI}impl/base_op_builder.cc",
                "weight_only": "the CPU folds Cast -> Mul when the session loads, before nodes go to providers",
                "matmulnbits": f"{_NNAPI}op_builder_factory.cc",
                "runtime": "the first with operator set 21",
                "provider": "needs an Android device: only the rules are checked",
            }
        ),
    ),
    Target(
        "generic",
        "any onnxruntime from 1.20: int8 storage whatever the bits, no operator outside the ONNX standard",
        dataclasses.replace(_CPU, narrowest=8),
        runtime="onnxruntime 1.20",
        int4="none",
        opset=21,
        provider="cpu",
        sources=_sources(
            {
                "narrowest": "INT4 needs onnxruntime 1.23; see cpu",
                "int4": "no INT4: codes are stored as INT8",
                "matmulnbits": _OURS,
                "opset": "https://onnxruntime.ai/docs/reference/compatibility.html",
                "runtime": "measured: make conformance, on 1.20.1; 1.18.1 and 1.19.2 lack QLinearMatMul of opset 21",
            }
        ),
    ),
)

TARGETS: Mapping[str, Target] = MappingProxyType({target.name: target for target in _ALL})


def find_target(name: str) -> Target:
    """The target of that name.

    Raises:
        TargetError: there is none.
    """
    if name not in TARGETS:
        raise TargetError(f"no target is named {name!r}; there are: {', '.join(TARGETS)}")
    return TARGETS[name]
