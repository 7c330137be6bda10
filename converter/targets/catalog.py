"""The targets: what each execution provider accepts, as data. The writer and the rules read these facts.

No other module knows a target's name. Every fact has a source, under the name of its field. No target takes a source
from another target, except cpu-avx2, which is cpu with one more rule. A source is a page, a file of the provider's
source code, our own choice, or the command that measured the fact, which begins with "measured".
"""

import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from converter.model_io.entry_points import entry_point_names, load_entry_point
from converter.targets.sources import (
    ADDS,
    CAST_INT2,
    CAST_INT4,
    COMPATIBILITY,
    CONFORMANCE,
    CONTRIB,
    CPU_KERNELS,
    CUDA,
    DOCS,
    FOLDED,
    GITHUB,
    INSPECTED,
    LINEAR_AXES,
    MEASURED,
    MLAS,
    NNAPI,
    ONNX,
    ORT,
    OURS,
    PROCESSOR_SOURCES,
    PROCESSORS,
    QNN,
    QUANTIZATION,
    SIGNED,
    TENSORRT,
    TENSORRT_OPERATORS,
    TENSORRT_QDQ,
    TENSORRT_TYPES,
    TIMED,
    UNTIMED,
    VERIFIED,
    XNNPACK,
)
from converter.targets.target import Target
from passes.arguments import require_type
from passes.errors import TargetError
from passes.ir.rules import Rules
from passes.numerics.kernel_times import KernelTimes

__all__ = ["DEFAULT_TARGET", "GROUP", "TARGETS", "Target", "find_target", "known_targets"]

GROUP = "convert_onnx.targets"
"""Group of entry points in which other packages offer their targets."""

DEFAULT_TARGET = "cpu"

_MOVING = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Resize", "Split"})
_CLAMPS = frozenset({"Relu", "Clip"})
_MATRIX_AXES = {"Gemm": 1, "Gemm transB": 0, "MatMul": 1}
_AXES = MappingProxyType({"Conv": 0, **_MATRIX_AXES})
_AXES_TRANSPOSED = MappingProxyType({"Conv": 0, "ConvTranspose": 1, **_MATRIX_AXES})
_EITHER = frozenset({"int8", "uint8"})

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
_CPU_TIMES = dataclasses.replace(_CPU, times=KernelTimes(), channels_last=True, gathers_codes=True)


def _sources(*groups: tuple[str, Iterable[str]], **facts: str) -> Mapping[str, str]:
    """Sources by fact: first those that targets share unless they say otherwise, then those that facts share."""
    others = dict.fromkeys(("gathers_codes", "sparsity"), OURS) | dict.fromkeys(("channels_last", "times"), UNTIMED)
    shared = others | {fact: source for source, names in groups for fact in names}
    return MappingProxyType(shared | facts)


_CPU_TARGET = Target(
    "cpu",
    "onnxruntime CPU execution provider: uint8 activations, int8 per-channel weights",
    _CPU_TIMES,
    runtime="onnxruntime 1.23",
    matmulnbits=True,
    provider="cpu",
    variants=PROCESSORS,
    sources=_sources(
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
        narrowest=f"{VERIFIED} of a file of 2-bit weights; Cast(INT2): {CAST_INT2}, opset 25, onnxruntime 1.24",
        weight_only=FOLDED,
        runtime=f"{MEASURED}, on 1.23.0; Cast(INT4) is newer than 1.22: {CAST_INT4}",
        int4=f"{INSPECTED}; a layer behind DequantizeLinear(INT4) is dequantized on every run",
        matmulnbits=CONTRIB,
        opset=COMPATIBILITY,
        provider="the onnxruntime package",
        variants=PROCESSOR_SOURCES,
        channels_last=INSPECTED,
        pair_sum=ADDS,
        times=TIMED,
    ),
)

_ALL = (
    _CPU_TARGET,
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
            (CONFORMANCE, ("linear", "compute", "moving", "conv_dims", "weight_types", "channel_axes")),
            (MEASURED, ("int4", "bias", "absorbable")),
            (OURS, ("symmetric", "weight_zero_points", "fused_adds", "on_demand", "scalars", "reads_by_channel")),
            (QNN, ("signed", "matmulnbits")),
            narrowest=f"{VERIFIED} of a file of 2-bit weights",
            weight_only=FOLDED,
            no_float=f"{VERIFIED} of a file that has one: it fails to finalize (onnxruntime-qnn 2.7, HTP on x86)",
            float_outputs=f"{VERIFIED} of a cpu file: a Gemm that writes floats is left (onnxruntime-qnn 2.7)",
            static_shapes=f"{VERIFIED} of a cpu file: with an open batch no node is taken (onnxruntime-qnn 2.7)",
            opset=COMPATIBILITY,
            runtime=f"{MEASURED}; older versions were not run",
            whole="session.disable_cpu_ep_fallback=1",
            provider="the onnxruntime-qnn package, its HTP library on x86",
            variants="the HTP library on x86 only; no phone was run",
            pair_sum=ADDS,
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
        sparsity="2:4",
        sources=_sources(
            (TENSORRT_OPERATORS, ("linear", "compute", "moving", "conv_dims", "no_float", "matmulnbits")),
            (TENSORRT_TYPES, ("signed", "symmetric", "weight_zero_points", "weight_types")),
            (TENSORRT_QDQ, ("fused_adds", "float_outputs", "absorbable", "weight_only", "channel_axes")),
            (OURS, ("on_demand", "scalars", "reads_by_channel", "whole")),
            bias=f"{TENSORRT_OPERATORS}: DequantizeLinear reads INT8, INT4 and FP8, not INT32",
            narrowest=f"{TENSORRT_TYPES}: INT4 is weight-only",
            int4=f"{TENSORRT_TYPES}: INT4 is weight-only; codes of layers on integers are stored as INT8",
            opset=f"{TENSORRT}reference/onnx-opset-guide.html: TensorRT 11.x",
            runtime="https://github.com/NVIDIA/TensorRT/releases/tag/v11.5: adds opset 25",
            sparsity=f"{TENSORRT}inference-library/data-formats-tensors.html: two zeros in every four input channels",
            provider="needs an NVIDIA GPU: only the rules are checked",
            variants="GPUs are not told apart",
            static_shapes=TENSORRT_OPERATORS,
            pair_sum=ADDS,
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
            matmulnbits=CONTRIB,
            opset=COMPATIBILITY,
            provider="needs an NVIDIA GPU: only the rules are checked",
            variants="GPUs are not told apart",
            pair_sum=ADDS,
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
    ),
    Target(
        "generic",
        "any onnxruntime from 1.20: int8 storage whatever the bits, no operator outside the ONNX standard",
        dataclasses.replace(_CPU_TIMES, narrowest=8),
        runtime="onnxruntime 1.20",
        int4="none",
        opset=21,
        provider="cpu",
        variants=PROCESSORS,
        sources=_sources(
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
    ),
    dataclasses.replace(
        _CPU_TARGET,
        name="cpu-avx2",
        description="onnxruntime CPU execution provider on x86 without VNNI: as cpu, with sums that fit its kernels",
        rules=dataclasses.replace(_CPU_TIMES, pair_sum=128),
        sources=MappingProxyType({**_CPU_TARGET.sources, "pair_sum": f"{MLAS}: 255 times 128 fits 16 bits"}),
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
