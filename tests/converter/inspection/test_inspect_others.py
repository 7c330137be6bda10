"""inspect on files of other tools: onnxruntime's own quantizers, float16, functions, subgraphs."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
from onnxruntime.transformers.float16 import convert_float_to_float16

from converter.inspection.inspect import InspectedLayer, Inspection, inspect
from tests.support.models import SIDE, make_model, small_cnn

BITS = {
    TensorProto.FLOAT: 32,
    TensorProto.FLOAT16: 16,
    TensorProto.INT32: 32,
    TensorProto.INT4: 4,
    TensorProto.INT64: 64,
}
SIZES = {"stem": 216, "deep": 72, "up": 256, "fc": 40}  # number of weights of each layer
OUTPUTS = {"stem": 8, "deep": 8, "up": 8, "fc": 5}


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """Four batches of noise for onnxruntime's quantizer."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self._batches: Iterator[dict[str, NDArray[Any]]] = iter(
            [{"input": draw.standard_normal((4, 3, SIDE, SIDE), dtype=np.float32)} for _ in range(4)]
        )

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._batches, None)


@pytest.fixture
def model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Path:
    """small_cnn as a file. The quantizer's advice on preprocessing is not logged."""
    caplog.set_level(logging.ERROR)
    onnx.save(small_cnn(), tmp_path / "float.onnx")
    return tmp_path / "float.onnx"


def static(model: Path, **options: Any) -> Inspection:
    path = model.with_name("quantized.onnx")
    quantize_static(model, path, Batches(), **options)
    return checked(path)


def checked(path: Path) -> Inspection:
    """Inspect a file, and check the bytes against an independent count."""
    inspection = inspect(path)
    counted: dict[int, int] = {}
    for tensor in onnx.load(path).graph.initializer:
        bits = BITS.get(tensor.data_type, 16 if tensor.data_type in (TensorProto.INT16, TensorProto.UINT16) else 8)
        counted[tensor.data_type] = counted.get(tensor.data_type, 0) + -(-int(np.prod(tensor.dims)) * bits // 8)
    assert sorted(inspection.bytes_by_type.values()) == sorted(counted.values())
    assert inspection.model["bytes"] == path.stat().st_size
    assert inspection.model["loads"]
    return inspection


def by_name(inspection: Inspection) -> dict[str, InspectedLayer]:
    return {layer.name.removesuffix("_quant").removesuffix("_MatMul"): layer for layer in inspection.layers}


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_int8_of_onnxruntime(model: Path, form: QuantFormat, per_channel: bool) -> None:
    layers = by_name(static(model, quant_format=form, per_channel=per_channel, activation_type=QuantType.QUInt8))
    for name in ("stem", "deep", "fc"):
        layer = layers[name]
        scales = OUTPUTS[name] if per_channel else 1
        assert (layer.weight_bits, layer.storage, layer.activation_type) == (8, "int8", "uint8")
        assert (layer.fused, layer.reason) == (True, "")
        assert (layer.granularity, layer.bytes) == ("channel" if per_channel else "tensor", SIZES[name] + 5 * scales)
    up = layers["up"]
    if form == QuantFormat.QDQ:
        assert (up.weight_bits, up.fused) == (8, False)
        assert up.reason.startswith("no integer ConvTranspose")
    else:
        assert (up.weight_bits, up.storage, up.bytes) == (32, "float32", 4 * SIZES["up"])


@pytest.mark.parametrize(
    ("options", "bits", "activation", "reason"),
    [
        pytest.param({}, 8, "int8", "onnxruntime makes uint8 of its input and int8 of its output", id="int8"),
        pytest.param({"weight_type": QuantType.QInt4}, 4, "int8", "DequantizeLinear of int4", id="int4"),
        pytest.param({"weight_type": QuantType.QInt16}, 16, "int8", "no integer kernel for 16-bit weights", id="w16"),
        pytest.param(
            {"activation_type": QuantType.QUInt16}, 8, "uint16", "no integer kernel for 16-bit activations", id="a16"
        ),
    ],
)
def test_layers_that_onnxruntime_writes_but_cannot_fuse(
    model: Path, options: dict[str, Any], bits: int, activation: str, reason: str
) -> None:
    layers = by_name(static(model, **options))
    for name in ("stem", "deep", "fc") if options else ("stem",):
        layer = layers[name]
        assert (layer.weight_bits, layer.activation_type, layer.fused) == (bits, activation, False)
        assert layer.bytes >= -(-SIZES[name] * bits // 8)
        assert reason in layer.reason


def test_a_layer_left_in_float_that_onnxruntime_quantizes_anyway(model: Path) -> None:
    layers = by_name(static(model, nodes_to_exclude=["up"]))
    assert layers["up"].storage == "float32"
    layers = by_name(static(model, nodes_to_exclude=["deep"]))
    deep = layers["deep"]
    assert (deep.storage, deep.weight_bits, deep.granularity, deep.bytes) == ("float32", 8, "tensor", 4 * 72)
    assert deep.reason == "onnxruntime rounds its float32 weight to int8 at load, one scale for the whole tensor"


def test_dynamic_quantization(model: Path) -> None:
    path = model.with_name("dynamic.onnx")
    quantize_dynamic(model, path)
    layers = by_name(checked(path))
    for name in ("stem", "fc"):
        assert (layers[name].weight_bits, layers[name].activation_type, layers[name].fused) == (8, "uint8", True)


def matmul() -> onnx.ModelProto:
    draw = np.random.default_rng(0)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "head")]
    constants = {"w": draw.standard_normal((64, 32), dtype=np.float32)}
    return make_model(nodes, constants, inputs={"x": ["n", 64]}, outputs={"y": ["n", 32]})


@pytest.mark.parametrize("form", [QuantFormat.QOperator, QuantFormat.QDQ])
def test_weight_only_4_bits_of_onnxruntime(tmp_path: Path, form: QuantFormat) -> None:
    config = DefaultWeightOnlyQuantConfig(block_size=16, is_symmetric=True, accuracy_level=4, quant_format=form)
    quantizer = MatMulNBitsQuantizer(matmul(), 4, 16, True, accuracy_level=4, algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(str(tmp_path / "m.onnx"))
    (layer,) = checked(tmp_path / "m.onnx").layers
    assert (layer.weight_bits, layer.granularity) == (4, "block 16")
    assert layer.bytes in (1024 + 4 * 128, 1024 + 4 * 128 + 64), "codes, scales, and zero points if it writes them"
    assert layer.storage == ("matmulnbits" if form == QuantFormat.QOperator else "int4 dequantize")
    assert layer.fused, "onnxruntime turns both into MatMulNBits"


def test_float16(model: Path) -> None:
    onnx.save(convert_float_to_float16(onnx.load(model)), model.with_name("half.onnx"))
    for layer in checked(model.with_name("half.onnx")).layers:
        assert (layer.weight_bits, layer.storage, layer.activation_bits, layer.activation_type) == (
            16,
            "float16",
            16,
            "float16",
        )
        assert layer.reason == "weight is float16"


def test_a_quantize_node_on_a_float_weight(tmp_path: Path) -> None:
    """A file after training with simulated quantization: it holds floats, and a node rounds them to 8 bits."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], axis=1),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], axis=1),
        helper.make_node("MatMul", ["xd", "wd"], ["h"], "head"),
        helper.make_node("QuantizeLinear", ["h", "s", "z"], ["hq"]),
        helper.make_node("DequantizeLinear", ["hq", "s", "z"], ["y"]),
    ]
    constants: dict[str, NDArray[Any]] = {
        "s": np.array(0.1, np.float32), "z": np.array(128, np.uint8),
        "w": np.random.default_rng(0).standard_normal((6, 4), dtype=np.float32),
        "ws": np.full(4, 0.02, np.float32), "wz": np.zeros(4, np.int8),
    }  # fmt: skip
    onnx.save(make_model(nodes, constants, inputs={"x": ["n", 6]}, outputs={"y": ["n", 4]}), tmp_path / "m.onnx")
    (layer,) = checked(tmp_path / "m.onnx").layers
    assert (layer.storage, layer.weight_bits, layer.granularity) == ("float32 quantize", 8, "channel")
    assert (layer.activation_type, layer.fused) == ("uint8", True)


def test_layers_in_functions_and_subgraphs(tmp_path: Path) -> None:
    """One layer is in a local function that is called twice, and one is in each branch of an If."""
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    function = helper.make_function(
        "local", "Block", ["a", "b"], ["c"], [helper.make_node("MatMul", ["a", "b"], ["c"], "inner")],
        [helper.make_opsetid("", 21)],
    )  # fmt: skip
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("MatMul", ["h", "w"], [name], f"in_{name}")],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4])],
        )
        for name in ("then", "else")
    }
    nodes = [
        helper.make_node("Block", ["x", "w"], ["g"], "first", domain="local"),
        helper.make_node("Block", ["g", "w"], ["h"], "second", domain="local"),
        helper.make_node("If", ["which"], ["y"], "if", **branches),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("which", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [weight],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=[function]), tmp_path / "m.onnx")
    inspection = inspect(tmp_path / "m.onnx")
    assert [layer.op for layer in inspection.layers] == ["MatMul"] * 4
    assert {layer.name for layer in inspection.layers} >= {"in_then", "in_else"}
    assert all(layer.bytes == 64 and layer.weight_bits == 32 for layer in inspection.layers)
    assert inspection.bytes_by_type == {"float32": 64}, "all four share one stored weight"
