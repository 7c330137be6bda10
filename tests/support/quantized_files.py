"""Files that were quantized by others: by onnxruntime, by training, and by hand in forms that few write."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.support.models import SIDE, make_model, small_cnn
from tests.support.networks import run

__all__ = [
    "PLAIN",
    "ROWS",
    "S8",
    "U8",
    "ZERO",
    "X",
    "dequantize",
    "drawn",
    "network",
    "qdq",
    "scores",
    "static",
    "trained",
]

quantization = pytest.importorskip("onnxruntime.quantization")

X = np.random.default_rng(0).standard_normal((24, 3, SIDE, SIDE)).astype(np.float32)
U8, S8 = quantization.QuantType.QUInt8, quantization.QuantType.QInt8


def scores(model: onnx.ModelProto, data: NDArray[Any] = X) -> NDArray[np.float32]:
    """What onnxruntime makes of the file."""
    return run(model, data)[0]


def network(opset: int = 21) -> onnx.ModelProto:
    """small_cnn without its ConvTranspose, with a pool between: every node has an integer kernel."""
    model = small_cnn(transpose=False)
    nodes = {node.name: node for node in model.graph.node}
    nodes["pool"].input[0] = "small"
    pool = helper.make_node("MaxPool", ["sum"], ["small"], "shrink", kernel_shape=[2, 2], strides=[2, 2])
    model.graph.node.insert(4, pool)
    model.opset_import[0].version = opset
    return model


def static(folder: Path, model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    """The model by onnxruntime's own quantize_static."""
    batches = iter([{"input": X[start : start + 8]} for start in range(0, len(X), 8)])

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]
        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(batches, None)

    onnx.save(model, folder / "float.onnx")
    quantization.quantize_static(
        folder / "float.onnx", folder / "qdq.onnx", Reader(), **{"quant_format": quantization.QuantFormat.QDQ} | options
    )
    return onnx.load(folder / "qdq.onnx")


def qdq(
    weight: list[Any], *, codes: TensorProto, scale: Any, zero_point: TensorProto, activation: int = TensorProto.UINT8
) -> onnx.ModelProto:
    """input -> QDQ -> Gemm -> output; ``weight`` are nodes that make "w" of "codes", "scale" and "zero"."""
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "x_scale", "x_zero"], ["x_codes"], "xq"),
        helper.make_node("DequantizeLinear", ["x_codes", "x_scale", "x_zero"], ["x_floats"], "xd"),
        *weight,
        helper.make_node("Gemm", ["x_floats", "w"], ["output"], "fc", transB=1),
    ]
    constants = [
        codes,
        numpy_helper.from_array(np.asarray(scale, np.float32), "scale"),
        zero_point,
        numpy_helper.from_array(np.array(0.05, np.float32), "x_scale"),
        helper.make_tensor("x_zero", activation, [], [128]),
    ]
    return make_model(nodes, constants, inputs={"input": ["n", 8]}, outputs={"output": ["n", 5]}, opset=25)


def dequantize(**attributes: Any) -> list[Any]:
    """The nodes of a weight that is stored as codes."""
    return [helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["w"], "wd", **attributes)]


def drawn(low: int, high: int) -> NDArray[np.int64]:
    """Codes of a weight ``[5, 8]``."""
    return np.random.default_rng(1).integers(low, high + 1, (5, 8))


ROWS = np.random.default_rng(2).standard_normal((16, 8)).astype(np.float32)
ZERO = helper.make_tensor("zero", TensorProto.INT8, [], [0])
PLAIN = helper.make_tensor("codes", TensorProto.INT8, [5, 8], drawn(-128, 127).reshape(-1))


def trained(*, clip: bool = True, reduced: bool = False) -> onnx.ModelProto:
    """What training with fake quantization exports: floats are quantized in the file, and codes may be clipped."""
    draw = np.random.default_rng(4)
    constants: dict[str, NDArray[Any]] = {
        "conv.weight": draw.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "scale": np.linspace(0.02, 0.03, 4, dtype=np.float32),
        "zero": np.zeros(4, np.int8),
        "low": np.array(-127, np.int8),
        "high": np.array(127, np.int8),
        "x_scale": np.array(0.04, np.float32),
        "x_zero": np.array(60, np.uint8),
        "x_low": np.array(0, np.uint8),
        "x_high": np.array(127 if reduced else 255, np.uint8),
    }
    codes = ["Clip"] if clip else []
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "x_scale", "x_zero"], ["x_q"]),
        *([helper.make_node("Clip", ["x_q", "x_low", "x_high"], ["x_c"])] if codes else []),
        helper.make_node("DequantizeLinear", ["x_c" if codes else "x_q", "x_scale", "x_zero"], ["x_d"]),
        helper.make_node("Identity", ["zero"], ["w_zero"]),  # as PyTorch shares constants
        helper.make_node("Identity", ["conv.weight"], ["w"]),
        helper.make_node("QuantizeLinear", ["w", "scale", "w_zero"], ["w_q"], axis=0),
        *([helper.make_node("Clip", ["w_q", "low", "high"], ["w_c"])] if codes else []),
        helper.make_node("DequantizeLinear", ["w_c" if codes else "w_q", "scale", "w_zero"], ["w_d"], axis=0),
        helper.make_node("Conv", ["x_d", "w_d"], ["output"]),
    ]
    return make_model(nodes, constants, inputs={"input": ["n", 3, 6, 6]}, outputs={"output": ["n", 4, 4, 4]})
