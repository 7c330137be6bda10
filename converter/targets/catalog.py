"""The targets: what each execution provider accepts, as data. The writer and the rules read these facts.

No other module knows a target's name. Every fact has a source, under the name of its field. No target takes a source
from another target. A source is a page, a file of the provider's source code, our own choice, or the command that
measured the fact, which begins with "measured".
"""

import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from converter.model_io.entry_points import entry_point_names, load_entry_point
from converter.targets.target import Target
from passes.arguments import require_type
from passes.errors import TargetError
from passes.ir.rules import Rules
from passes.numerics.kernel_times import KernelTimes

__all__ = ["DEFAULT_TARGET", "GROUP", "TARGETS", "Target", "find_target", "known_targets"]

GROUP = "convert_onnx.targets"
"""Group of entry points in which other packages offer their targets."""

DEFAULT_TARGET = "cpu"

_CONFORMANCE = "measured: make conformance"
_MEASURED = "measured: python -m benchmarks.targets measure"
_INSPECTED = "measured: convert-onnx inspect"
_VERIFIED = "measured: convert-onnx verify"
_OURS = "ours: a choice, not a limit of the target"

_GITHUB = "https://github.com/microsoft/onnxruntime/"
_ORT = f"{_GITHUB}blob/main/onnxruntime/core/"
_DOCS = "https://onnxruntime.ai/docs/"
_CPU_KERNELS = f"{_ORT}optimizer/qdq_transformer/selectors_actions/qdq_selector_action_transformer.cc"
_MLAS = f"{_ORT}mlas/lib/platform.cpp"
_CONTRIB = f"{_GITHUB}blob/main/docs/ContribOperators.md"
_QUANTIZATION = f"{_DOCS}performance/model-optimizations/quantization.html"
_COMPATIBILITY = f"{_DOCS}reference/compatibility.html"
_CAST_INT4 = f"{_GITHUB}pull/24973"
_CAST_INT2 = f"{_GITHUB}pull/27022"
_FOLDED = (
    "onnxruntime folds constants before nodes go to providers: "
    f"{_DOCS}performance/model-optimizations/graph-optimizations.html"
)
_ONNX = "https://onnx.ai/onnx/operators/"
_LINEAR_AXES = f"outputs of the layer: {_ONNX}onnx__QLinearConv.html, {_ONNX}onnx__QLinearMatMul.html, {_CONTRIB}"
_QNN = f"{_DOCS}execution-providers/QNN-ExecutionProvider.html"
_NNAPI = f"{_ORT}providers/nnapi/nnapi_builtin/builders/"
_XNNPACK = f"{_ORT}providers/xnnpack/"
_CUDA = f"{_ORT}providers/cuda/cuda_execution_provider.cc"
_TENSORRT = "https://docs.nvidia.com/deeplearning/tensorrt/latest/"
_TENSORRT_TYPES = f"{_TENSORRT}inference-library/work-quantized-types.html"
_TENSORRT_QDQ = f"{_TENSORRT}inference-library/quantized-types-explicit-quantization.html"
_TENSORRT_OPERATORS = "https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md"

_MOVING = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Resize", "Split"})
_CLAMPS = frozenset({"Relu", "Clip"})
_MATRIX_AXES = {"Gemm": 1, "Gemm transB": 0, "MatMul": 1}
_AXES = MappingProxyType({"Conv": 0, **_MATRIX_AXES})
_AXES_TRANSPOSED = MappingProxyType({"Conv": 0, "ConvTranspose": 1, **_MATRIX_AXES})
_EITHER = frozenset({"int8", "uint8"})
_PROCESSORS = MappingProxyType(
    {
        "x86 with VNNI": "adds products of uint8 and int8 in 32 bits",
        "x86 without VNNI": "adds two of them in 16 bits, which 8-bit weights can saturate and weights of 7 bits or "
        "fewer cannot (reduce_range; here bits = 7)",
        "Arm": "has kernels for dot product (udot), for i8mm (ummla, on Linux) and for neither; none saturates",
    }
)
_PROCESSOR_SOURCES = f"{_QUANTIZATION}, {_MLAS}; only x86 with VNNI was run"
_SIGNED = f"x86 has kernels for uint8 x int8, and for int8 x int8 only with AVX-VNNI-INT8: {_MLAS}"

_CPU = Rules(
    linear=frozenset({"Conv", "Gemm", "MatMul"}),
    compute=frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu", "Softmax"}),
    moving=_MOVING,
    absorbable=_CLAMPS,
    float_outputs=frozenset({"Gemm", "MatMul"}),
    on_demand=True,
    scalars=True,
    reads_by_channel=True,
    weight_types=_EITHER,
    channel_axes=_AXES,
)
_CPU_TIMES = dataclasses.replace(_CPU, times=KernelTimes(), channels_last=True)
_TIMED = "measured: python -m benchmarks.kernel_times, on x86 with AVX-512 VNNI and onnxruntime 1.31"
_UNTIMED = f"{_OURS}; its kernels were not timed"


def _sources(*groups: tuple[str, Iterable[str]], **facts: str) -> Mapping[str, str]:
    """Sources by fact: first the sources that several facts share, then the others."""
    shared = {fact: source for source, names in groups for fact in names}
    return MappingProxyType(shared | facts)


_ALL = (
    Target(
        "cpu",
        "onnxruntime CPU execution provider: uint8 activations, int8 per-channel weights",
        _CPU_TIMES,
        runtime="onnxruntime 1.23",
        matmulnbits=True,
        provider="cpu",
        variants=_PROCESSORS,
        sources=_sources(
            (_CPU_KERNELS, ("linear", "compute", "moving", "fused_adds")),
            (_INSPECTED, ("float_outputs", "on_demand", "scalars")),
            (_CONFORMANCE, ("conv_dims", "no_float", "static_shapes")),
            (_OURS, ("symmetric", "weight_zero_points", "whole")),
            absorbable=f"{_INSPECTED}; a Relu is dropped where the zero point is the smallest code",
            signed=_SIGNED,
            reads_by_channel=f"{_ORT}optimizer/qdq_transformer/weight_bias_quantization.cc",
            bias=f"{_ONNX}onnx__QLinearConv.html",
            weight_types=f"{_QUANTIZATION}: U8U8, U8S8 and S8S8",
            channel_axes=_LINEAR_AXES,
            narrowest=f"{_VERIFIED} of a file of 2-bit weights; Cast(INT2): {_CAST_INT2}, opset 25, onnxruntime 1.24",
            weight_only=_FOLDED,
            runtime=f"{_MEASURED}, on 1.23.0; Cast(INT4) is newer than 1.22: {_CAST_INT4}",
            int4=f"{_INSPECTED}; a layer behind DequantizeLinear(INT4) is dequantized on every run",
            matmulnbits=_CONTRIB,
            opset=_COMPATIBILITY,
            provider="the onnxruntime package",
            variants=_PROCESSOR_SOURCES,
            channels_last=_INSPECTED,
            times=_TIMED,
        ),
    ),
    Target(
        "openvino",
        "onnxruntime OpenVINO execution provider: what the CPU takes, and transposed convolutions",
        dataclasses.replace(
            _CPU,
            linear=_CPU.linear | {"ConvTranspose"},
            weight_types=frozenset({"int8"}),
            channel_axes=_AXES_TRANSPOSED,
        ),
        runtime="onnxruntime-openvino 1.24.1",
        opset=25,
        provider="openvino",
        sources=_sources(
            (_CONFORMANCE, ("linear", "compute", "moving", "conv_dims", "static_shapes", "no_float", "channel_axes")),
            (_CONFORMANCE, ("weight_types", "float_outputs", "fused_adds")),
            (_MEASURED, ("signed", "int4", "bias", "absorbable")),
            (_OURS, ("symmetric", "weight_zero_points", "whole", "matmulnbits")),
            (f"{_OURS}; the same files as for the CPU", ("on_demand", "scalars", "reads_by_channel")),
            narrowest=f"{_VERIFIED} of a file of 2-bit weights",
            weight_only=_FOLDED,
            opset=f"{_CONFORMANCE}, up to 25",
            runtime=f"{_MEASURED}; older versions were not run",
            provider="the onnxruntime-openvino package, device CPU",
            variants="device CPU only; its GPUs and NPUs were not run",
            channels_last=_UNTIMED,
            times=_UNTIMED,
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
            weight_types=frozenset({"int8"}),
            channel_axes=_AXES_TRANSPOSED,
        ),
        runtime="onnxruntime 1.31 with onnxruntime-qnn 2.7",
        static_shapes=True,
        whole=True,
        provider="qnn",
        sources=_sources(
            (_CONFORMANCE, ("linear", "compute", "moving", "conv_dims", "weight_types", "channel_axes")),
            (_MEASURED, ("int4", "bias", "absorbable")),
            (_OURS, ("symmetric", "weight_zero_points", "fused_adds", "on_demand", "scalars", "reads_by_channel")),
            (_QNN, ("signed", "matmulnbits")),
            narrowest=f"{_VERIFIED} of a file of 2-bit weights",
            weight_only=_FOLDED,
            no_float=f"{_VERIFIED} of a file that has one: it fails to finalize (onnxruntime-qnn 2.7, HTP on x86)",
            float_outputs=f"{_VERIFIED} of a cpu file: a Gemm that writes floats is left (onnxruntime-qnn 2.7)",
            static_shapes=f"{_VERIFIED} of a cpu file: with an open batch no node is taken (onnxruntime-qnn 2.7)",
            opset=_COMPATIBILITY,
            runtime=f"{_MEASURED}; older versions were not run",
            whole="session.disable_cpu_ep_fallback=1",
            provider="the onnxruntime-qnn package, its HTP library on x86",
            variants="the HTP library on x86 only; no phone was run",
            channels_last=_UNTIMED,
            times=_UNTIMED,
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
            channel_axes=_AXES_TRANSPOSED,
        ),
        runtime="TensorRT 11.5",
        int4="none",
        opset=25,
        sources=_sources(
            (_TENSORRT_OPERATORS, ("linear", "compute", "moving", "conv_dims", "no_float")),
            (_TENSORRT_OPERATORS, ("matmulnbits", "static_shapes")),
            (_TENSORRT_TYPES, ("signed", "symmetric", "weight_zero_points", "weight_types")),
            (_TENSORRT_QDQ, ("fused_adds", "float_outputs", "absorbable", "weight_only", "channel_axes")),
            (_OURS, ("on_demand", "scalars", "reads_by_channel", "whole")),
            bias=f"{_TENSORRT_OPERATORS}: DequantizeLinear reads INT8, INT4 and FP8, not INT32",
            narrowest=f"{_TENSORRT_TYPES}: INT4 is weight-only",
            int4=f"{_TENSORRT_TYPES}: INT4 is weight-only; codes of layers on integers are stored as INT8",
            opset=f"{_TENSORRT}reference/onnx-opset-guide.html: TensorRT 11.x",
            runtime="https://github.com/NVIDIA/TensorRT/releases/tag/v11.5: adds opset 25",
            provider="needs an NVIDIA GPU: only the rules are checked",
            variants="GPUs are not told apart",
            channels_last=_UNTIMED,
            times=_UNTIMED,
        ),
    ),
    Target(
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
        matmulnbits=True,
        sources=_sources(
            (
                f"no QLinearConv is registered: {_CUDA}",
                ("linear", "compute", "moving", "absorbable", "signed", "symmetric", "float_outputs", "fused_adds"),
            ),
            (
                "no layer runs on integers",
                ("on_demand", "scalars", "reads_by_channel", "bias", "conv_dims", "weight_types", "channel_axes"),
            ),
            (f"{_DOCS}execution-providers/CUDA-ExecutionProvider.html", ("no_float", "static_shapes")),
            (_FOLDED, ("weight_only", "int4")),
            (_OURS, ("weight_zero_points", "whole")),
            narrowest=f"ours: INT2 would need opset 25 and onnxruntime 1.24, {_CAST_INT2}",
            runtime=f"Cast(INT4) is newer than 1.22: {_CAST_INT4}",
            matmulnbits=_CONTRIB,
            opset=_COMPATIBILITY,
            provider="needs an NVIDIA GPU: only the rules are checked",
            variants="GPUs are not told apart",
            channels_last=_UNTIMED,
            times=_UNTIMED,
        ),
    ),
    Target(
        "web",
        "onnxruntime-web on WebAssembly: takes what the CPU takes",
        dataclasses.replace(_CPU, weight_types=frozenset({"int8"})),
        runtime="onnxruntime-web 1.30",
        matmulnbits=True,
        provider="web",
        sources=_sources(
            (_CONFORMANCE, ("linear", "compute", "moving", "conv_dims", "static_shapes", "no_float", "channel_axes")),
            (_CONFORMANCE, ("weight_types", "float_outputs", "fused_adds", "matmulnbits")),
            (_MEASURED, ("signed", "int4", "bias", "absorbable")),
            (_OURS, ("symmetric", "weight_zero_points", "whole")),
            (f"{_OURS}; the same files as for the CPU", ("on_demand", "scalars", "reads_by_channel")),
            narrowest=f"{_VERIFIED} of a file of 2-bit weights",
            weight_only=_FOLDED,
            opset=_COMPATIBILITY,
            runtime=f"{_MEASURED}; older versions were not run",
            provider="the onnxruntime-web package, in node and in Chromium",
            variants="WebAssembly only; WebGPU and WebNN were not run",
            channels_last=_UNTIMED,
            times=_UNTIMED,
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
            weight_types=_EITHER,
            channel_axes=_AXES,
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
        sources=_sources(
            (f"{_NNAPI}helper.cc", ("linear", "compute", "moving", "float_outputs")),
            (
                f"{_NNAPI}helper.cc: HasValidBinaryOpQuantizedInputTypes",
                ("signed", "weight_types", "narrowest", "symmetric"),
            ),
            (_OURS, ("fused_adds", "on_demand", "scalars", "reads_by_channel", "weight_zero_points", "whole")),
            absorbable="ours: the quantizer behind a clamp saturates as it does",
            static_shapes=f"{_NNAPI}impl/base_op_builder.cc: HasSupportedInputOutputs",
            conv_dims=f"{_NNAPI}impl/conv_op_builder.cc",
            bias=f"{_NNAPI}impl/gemm_op_builder.cc: the bias of a quantized Gemm is int32",
            channel_axes=f"{_GITHUB}pull/6155 and {_LINEAR_AXES}",
            no_float="the CPU runs what NNAPI does not take",
            int4=f"{_NNAPI}helper.cc: 8 bits only, so codes are stored as INT8",
            weight_only=_FOLDED,
            matmulnbits=f"{_NNAPI}op_builder_factory.cc",
            opset=_COMPATIBILITY,
            runtime=f"ours: it has operator set 21, {_COMPATIBILITY}; older versions were not tried",
            provider="needs an Android device: only the rules are checked",
            variants=f"{_NNAPI}helper.cc; {_XNNPACK}nn/conv_base.cc, {_DOCS}execution-providers/"
            "Xnnpack-ExecutionProvider.html",
            channels_last=_UNTIMED,
            times=_UNTIMED,
        ),
    ),
    Target(
        "generic",
        "any onnxruntime from 1.20: int8 storage whatever the bits, no operator outside the ONNX standard",
        dataclasses.replace(_CPU_TIMES, narrowest=8),
        runtime="onnxruntime 1.20",
        int4="none",
        opset=21,
        provider="cpu",
        variants=_PROCESSORS,
        sources=_sources(
            (_CPU_KERNELS, ("linear", "compute", "moving", "fused_adds")),
            (_CONFORMANCE, ("conv_dims", "no_float", "static_shapes", "float_outputs", "absorbable", "bias")),
            (_OURS, ("symmetric", "weight_zero_points", "whole", "matmulnbits")),
            (f"{_OURS}; the same layers as for the CPU", ("on_demand", "scalars", "reads_by_channel")),
            signed=_SIGNED,
            weight_types=f"{_QUANTIZATION}: U8U8, U8S8 and S8S8",
            channel_axes=_LINEAR_AXES,
            narrowest=f"Cast(INT4) is newer than 1.22: {_CAST_INT4}",
            int4=f"Cast(INT4) is newer than 1.22, {_CAST_INT4}, so codes are stored as INT8",
            weight_only=_FOLDED,
            opset=_COMPATIBILITY,
            runtime=f"{_CONFORMANCE}, on 1.20.1",
            provider="the onnxruntime package",
            variants=_PROCESSOR_SOURCES,
            channels_last=_INSPECTED,
            times=_TIMED,
        ),
    ),
)

TARGETS: Mapping[str, Target] = MappingProxyType({target.name: target for target in _ALL})


def find_target(name: str) -> Target:
    """The target with this name: one of `TARGETS`, or one that another package offers in the entry points of `GROUP`.

    Raises:
        TargetError: There is no such target, or the entry point gives no `Target` with this name.
    """
    require_type("target", name, str, "the name of a target")
    if name in TARGETS:
        return TARGETS[name]
    target = load_entry_point(GROUP, name, TARGETS, TargetError)
    if target is None:
        names = [*TARGETS, *entry_point_names(GROUP, TARGETS, TargetError)]
        raise TargetError(f"no target is named {name!r}; there are: {', '.join(names)}")
    if not isinstance(target, Target) or target.name != name:
        raise TargetError(f"entry point {name!r} in {GROUP} is {target!r}, which is no target of that name")
    return target


def known_targets() -> dict[str, Target]:
    """All targets by name: the built-in ones, then those of other packages.

    Raises:
        TargetError: See `find_target`.
    """
    return {name: find_target(name) for name in (*TARGETS, *entry_point_names(GROUP, TARGETS, TargetError))}
