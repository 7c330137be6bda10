"""Where the facts about targets come from: pages, files of source code, and the commands that measured them."""

from types import MappingProxyType

__all__ = [
    "ACL",
    "ADDS",
    "CAST_INT2",
    "CAST_INT4",
    "COMPATIBILITY",
    "CONFORMANCE",
    "CONTRIB",
    "COREML",
    "COREML_OPERATORS",
    "CPU_KERNELS",
    "CUDA",
    "DIRECTML",
    "DIRECTML_OPERATORS",
    "DML",
    "DOCS",
    "FOLDED",
    "GITHUB",
    "INSPECTED",
    "KERNELS",
    "LEAKY_RELU",
    "LINEAR_AXES",
    "MEASURED",
    "MLAS",
    "NNAPI",
    "NNCF_NPU",
    "NPU_DEVICE",
    "NPU_STRIPPING",
    "ONNX",
    "OPENVINO_PROVIDER",
    "ORT",
    "OURS",
    "PROCESSORS",
    "PROCESSOR_SOURCES",
    "QNN",
    "QUANTIZATION",
    "QUANTIZED",
    "QUARK",
    "RYZEN_AI",
    "SELECTORS",
    "SIGNED",
    "TENSORRT",
    "TENSORRT_OPERATORS",
    "TENSORRT_QDQ",
    "TENSORRT_TYPES",
    "TIMED",
    "UNTIMED",
    "VERIFIED",
    "VITIS_OPERATORS",
    "XNNPACK",
]

CONFORMANCE = "measured: make conformance"
MEASURED = "measured: python -m benchmarks.targets measure"
INSPECTED = "measured: convert-onnx inspect"
VERIFIED = "measured: convert-onnx verify"
OURS = "ours: a choice, not a limit of the target"

GITHUB = "https://github.com/microsoft/onnxruntime/"
ORT = f"{GITHUB}blob/main/onnxruntime/core/"
DOCS = "https://onnxruntime.ai/docs/"
CPU_KERNELS = f"{ORT}optimizer/qdq_transformer/selectors_actions/qdq_selector_action_transformer.cc"
MLAS = f"{ORT}mlas/lib/platform.cpp"
KERNELS = f"{GITHUB}blob/main/docs/OperatorKernels.md"
CONTRIB = f"{GITHUB}blob/main/docs/ContribOperators.md"
QUANTIZATION = f"{DOCS}performance/model-optimizations/quantization.html"
COMPATIBILITY = f"{DOCS}reference/compatibility.html"
CAST_INT4 = f"{GITHUB}pull/24973"
CAST_INT2 = f"{GITHUB}pull/27022"
FOLDED = (
    "onnxruntime folds constants before nodes go to providers: "
    f"{DOCS}performance/model-optimizations/graph-optimizations.html"
)
ONNX = "https://onnx.ai/onnx/operators/"
LINEAR_AXES = f"outputs of the layer: {ONNX}onnx__QLinearConv.html, {ONNX}onnx__QLinearMatMul.html, {CONTRIB}"
QNN = f"{DOCS}execution-providers/QNN-ExecutionProvider.html"
NNAPI = f"{ORT}providers/nnapi/nnapi_builtin/builders/"
XNNPACK = f"{ORT}providers/xnnpack/"
ACL = f"{ORT}providers/acl/"
COREML = f"{ORT}providers/coreml/builders/"
COREML_OPERATORS = f"{GITHUB}blob/main/tools/ci_build/github/apple/coreml_supported_mlprogram_ops.md"
DML = f"{ORT}providers/dml/DmlExecutionProvider/src/Operators/"
DIRECTML = f"{DOCS}execution-providers/DirectML-ExecutionProvider.html"
DIRECTML_OPERATORS = "https://learn.microsoft.com/en-us/windows/win32/api/directml/"
SELECTORS = f"{ORT}optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc"
NPU_STRIPPING = f"{ORT}providers/openvino/qdq_transformations/qdq_stripping.cc"
OPENVINO_PROVIDER = f"{DOCS}execution-providers/OpenVINO-ExecutionProvider.html"
NPU_DEVICE = (
    "https://github.com/openvinotoolkit/openvino/blob/master/docs/articles_en/openvino-workflow/running-inference/"
    "inference-devices-and-modes/npu-device.rst"
)
NNCF_NPU = (
    "https://github.com/openvinotoolkit/nncf/blob/0f1980dbfe56904ddf4a4e554e1c29229bab9f02/"
    "nncf/common/hardware/configs/npu.json"
)
QUARK = "AMD Quark, quark/onnx/quantization/config/custom_config.py"
RYZEN_AI = "https://ryzenai.docs.amd.com/en/1.4/modelrun.html"
VITIS_OPERATORS = (
    "https://github.com/ModelTC/MQBench/blob/main/docs/source/user_guide/hardware/vitis.rst and "
    "https://docs.amd.com/r/3.0-English/ug1414-vitis-ai/Currently-Supported-Operators"
)
CUDA = f"{ORT}providers/cuda/cuda_execution_provider.cc"
TENSORRT = "https://docs.nvidia.com/deeplearning/tensorrt/latest/"
TENSORRT_TYPES = f"{TENSORRT}inference-library/work-quantized-types.html"
TENSORRT_QDQ = f"{TENSORRT}inference-library/quantized-types-explicit-quantization.html"
TENSORRT_OPERATORS = "https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md"
PROCESSORS = MappingProxyType(
    {
        "x86 with VNNI": "adds products of uint8 and int8 in 32 bits",
        "x86 without VNNI": "adds two of them in 16 bits, which 8-bit weights can saturate and weights of 7 bits or "
        "fewer cannot (reduce_range; here bits = 7)",
        "Arm": "has kernels for dot product (udot), for i8mm (ummla, on Linux) and for neither; none saturates",
    }
)
PROCESSOR_SOURCES = f"{QUANTIZATION}, {MLAS}; only x86 with VNNI was run"
SIGNED = f"x86 has kernels for uint8 x int8, and for int8 x int8 only with AVX-VNNI-INT8: {MLAS}"
TIMED = "measured: python -m benchmarks.kernel_times, on x86 with AVX-512 VNNI and onnxruntime 1.31"
LEAKY_RELU = "measured: python -m benchmarks.leaky_relu"
ADDS = f"{OURS}; its kernels are taken to add products in 32 bits, as those of x86 with VNNI do"
UNTIMED = f"{OURS}; its kernels were not timed"
QUANTIZED = "ours: recipes that quantize activations write what the target has kernels for, see linear"
