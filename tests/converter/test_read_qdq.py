"""Quantized files as input: what they stand for, and the same codes written again."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from converter import convert, convert_within
from converter.budget import Budget
from converter.open import open_model
from converter.read_qdq import read_qdq
from converter.recipe import RECIPES, Recipe
from converter.runtime import open_session
from passes.activation_ranges import ActivationRanges
from passes.errors import ConvertError, ModelError, QuantizationError, TargetError, UsageError
from passes.fold_batchnorm import FoldBatchnorm
from passes.keep import KeepCodes, KeepRanges
from passes.normalise import Normalise
from passes.numerics.error import sqnr_db
from passes.rtn import Rtn
from tests.command_line import SCALE, run
from tests.models_zoo import SIDE, make_model, small_cnn

quantization = pytest.importorskip("onnxruntime.quantization")

X = np.random.default_rng(0).standard_normal((24, 3, SIDE, SIDE)).astype(np.float32)
U8, S8 = quantization.QuantType.QUInt8, quantization.QuantType.QInt8


def scores(model: onnx.ModelProto, data: NDArray[Any] = X) -> NDArray[np.float32]:
    session = open_session(model, threads=1)
    result: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: data})[0]
    return result


def unoptimized(model: onnx.ModelProto) -> NDArray[np.float32]:
    """The scores as the graph says them: kernels for uint8 and int8 round differently once in some hundred values."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {"input": X})[0]
    return result


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
    return [helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["w"], "wd", **attributes)]


def drawn(low: int, high: int) -> NDArray[np.int64]:
    return np.random.default_rng(1).integers(low, high + 1, (5, 8))


ROWS = np.random.default_rng(2).standard_normal((16, 8)).astype(np.float32)
ZERO = helper.make_tensor("zero", TensorProto.INT8, [], [0])
PLAIN = helper.make_tensor("codes", TensorProto.INT8, [5, 8], drawn(-128, 127).reshape(-1))


# ------------------------------------------------------------------- the same codes again


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize(
    ("activations", "weights", "per_channel"),
    [(U8, S8, True), (U8, S8, False), (S8, S8, True), (S8, S8, False)],
    ids=["U8S8-channel", "U8S8", "S8S8-channel", "S8S8"],
)
def test_a_file_by_onnxruntime_is_written_again_bit_for_bit(
    tmp_path: Path, activations: Any, weights: Any, per_channel: bool, opset: int
) -> None:
    options = {"activation_type": activations, "weight_type": weights, "per_channel": per_channel}
    source = static(tmp_path, network(opset), **options)
    found = dataclasses.replace(RECIPES["keep"], passes=(Normalise(rewrite=False), KeepRanges("found"), KeepCodes()))
    np.testing.assert_array_equal(scores(convert(source, recipe=found).model), scores(source))
    result = convert(source, recipe="keep")
    np.testing.assert_array_equal(unoptimized(result.model), unoptimized(source))
    if activations is U8:
        np.testing.assert_array_equal(scores(result.model), scores(source))
    assert {layer.name: (layer.bits, layer.activation_bits) for layer in result.layers} == dict.fromkeys(
        ("stem", "deep", "fc"), (8, 8)
    )
    again = convert(result.model, recipe="keep")
    assert again.model.graph == result.model.graph


def test_blocks_of_a_gemm_are_kept() -> None:
    """Its weight is stored inputs first."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "layer")]
    weight = np.random.default_rng(4).standard_normal((64, 10)).astype(np.float32)
    model = make_model(nodes, {"w": weight}, inputs={"x": ["n", 64]}, outputs={"y": ["n", 10]})
    data = np.random.default_rng(5).standard_normal((24, 64)).astype(np.float32)
    steps = (Normalise(), ActivationRanges(), Rtn(bits=4, block=16, two_level=True))
    source = convert(model, data, recipe=Recipe("r", "", steps)).model
    again = convert(source, recipe="keep")
    assert [layer.granularity for layer in again.layers] == ["block 16"]
    np.testing.assert_array_equal(scores(again.model, data), scores(source, data))
    assert again.model.graph == source.graph


@pytest.mark.parametrize("floats", [False, True], ids=["integers", "floats"])
@pytest.mark.parametrize("storage", ["cast", "packed", "int8", "dequantize"])
def test_blocks_are_kept_in_every_storage(storage: Any, floats: bool) -> None:
    steps = (Normalise(), *(() if floats else (ActivationRanges(),)), Rtn(bits=4, block=16, two_level=True))
    source = convert(small_cnn(transpose=False), X, recipe=Recipe("r", "", steps)).model
    again = convert(source, recipe=dataclasses.replace(RECIPES["keep"], storage=storage))
    onnx.checker.check_model(again.model, full_check=True)
    (stem,) = (layer for layer in again.layers if layer.name == "stem")
    assert stem.granularity == ("channel" if storage == "int8" else "block 9")
    slack = 1e-6 if storage == "dequantize" else 0  # onnxruntime makes a MatMulNBits of a Gemm on floats
    np.testing.assert_allclose(scores(again.model), scores(source), rtol=0, atol=slack)


def test_blocks_that_matmulnbits_cannot_read_are_refused() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "layer")]
    weight = np.random.default_rng(4).standard_normal((64, 10)).astype(np.float32)
    model = make_model(nodes, {"w": weight}, inputs={"x": ["n", 64]}, outputs={"y": ["n", 10]})
    source = convert(model, recipe=Recipe("r", "", (Normalise(), Rtn(bits=4, block=16, two_level=True)))).model
    with pytest.raises(TargetError, match="layer: MatMulNBits reads float scales of blocks"):
        convert(source, recipe=dataclasses.replace(RECIPES["keep"], storage="matmulnbits"))


@pytest.mark.parametrize("recipe", ["int8", "int4", "int4-weight-only"])
def test_our_own_files_are_written_again_bit_for_bit(recipe: str) -> None:
    source = convert(small_cnn(), X, recipe=recipe).model
    again = convert(source, recipe="keep").model
    np.testing.assert_array_equal(scores(again), scores(source))
    codes = {t.data_type: 0 for t in source.graph.initializer if t.data_type in {TensorProto.INT8, TensorProto.INT4}}
    assert sizes(again, codes) == sizes(source, codes)


def sizes(model: onnx.ModelProto, types: Any) -> list[tuple[int, ...]]:
    return sorted((t.data_type, *t.dims) for t in model.graph.initializer if t.data_type in types and len(t.dims) > 1)


@pytest.mark.parametrize("step", [Rtn(bits=3), Rtn(bits=3, block=16, two_level=True)], ids=["channel", "two levels"])
@pytest.mark.parametrize("floats", [False, True], ids=["integers", "floats"])
def test_codes_of_three_bits_stay_packed(step: Rtn, floats: bool) -> None:
    draw = np.random.default_rng(3)
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"], "first", pads=[1] * 4),
        helper.make_node("Conv", ["h", "b"], ["y"], "second", pads=[1] * 4),
    ]
    weights = {"a": draw.standard_normal((32, 3, 3, 3)), "b": draw.standard_normal((32, 32, 3, 3))}
    model = make_model(
        nodes,
        {name: values.astype(np.float32) for name, values in weights.items()},
        inputs={"x": ["n", 3, SIDE, SIDE]},
        outputs={"y": ["n", 32, SIDE, SIDE]},
    )
    ranges = () if floats else (ActivationRanges(),)
    source = convert(model, X, recipe=Recipe("r", "", (Normalise(), *ranges, step), storage="packed")).model
    again = convert(source, recipe="keep")
    second = 4 if floats else 3  # few codes lie in INT4, and so do those of layers on floats
    assert {layer.name: layer.bits for layer in again.layers} == {"first": 4, "second": second}
    blocks = ["block 9", "block 16"] if step.two_level else ["channel", "channel"]
    assert [layer.granularity for layer in again.layers] == blocks
    np.testing.assert_array_equal(scores(again.model), scores(source))
    assert again.model.ByteSize() == pytest.approx(source.ByteSize(), rel=0.05)


@pytest.mark.parametrize(
    ("data_type", "low", "high", "zero", "bits"),
    [
        (TensorProto.INT8, -128, 127, 0, 8),
        (TensorProto.UINT8, 0, 255, 128, 8),
        (TensorProto.INT4, -8, 7, 0, 4),
        (TensorProto.UINT4, 0, 15, 8, 4),
        (TensorProto.INT2, -2, 1, 0, 2),
    ],
    ids=["int8", "uint8", "int4", "uint4", "int2"],
)
def test_weights_of_every_type(data_type: int, low: int, high: int, zero: int, bits: int) -> None:
    codes = helper.make_tensor("codes", data_type, [5, 8], drawn(low, high).reshape(-1))
    zeros = helper.make_tensor("zero", data_type, [5], [zero] * 5)
    scale = np.linspace(0.01, 0.05, 5, dtype=np.float32)
    model, found = read_qdq(open_model(qdq(dequantize(axis=0), codes=codes, scale=scale, zero_point=zeros)))
    expected = ((drawn(low, high) - zero).astype(np.float32) * scale[:, None]).astype(np.float32)
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "w")
    np.testing.assert_array_equal(numpy_helper.to_array(weight), expected)
    assert found.weights["w"].bits == bits
    assert [node.op_type for node in model.graph.node] == ["Gemm"]
    assert list(model.graph.node[0].input) == ["input", "w"]
    result = convert(qdq(dequantize(axis=0), codes=codes, scale=scale, zero_point=zeros), recipe="keep")
    assert result.layers[0].bits == bits
    steps = np.clip(np.rint(ROWS / np.float32(0.05)) + 128, 0, 255) - 128
    exact = (steps * np.float32(0.05)).astype(np.float64) @ expected.T.astype(np.float64)
    assert sqnr_db(exact.astype(np.float32), scores(result.model, ROWS)) > 100  # float32 products of the same integers


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


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("reduced", [False, True])
def test_a_trained_file(clip: bool, reduced: bool) -> None:
    source = trained(clip=clip, reduced=reduced)
    model, found = read_qdq(open_model(source))
    assert list(found.weights) == ["w"]
    narrow = clip and reduced
    assert [node.op_type for node in model.graph.node] == (["Clip", "Conv"] if narrow else ["Conv"])
    result = convert(source, recipe="keep")
    assert [(layer.op, layer.bits, layer.activation_bits) for layer in result.layers] == [("Conv", 8, 8)]
    data = 3 * X[:, :, :6, :6]
    assert sqnr_db(scores(source, data), scores(result.model, data)) > 100
    if narrow:
        assert np.abs(scores(trained(clip=False), data) - scores(source, data)).max() > 0.1  # the Clip does something


def test_a_float_bias_is_rounded_to_int32_and_the_report_says_so() -> None:
    source = qdq(dequantize(), codes=PLAIN, scale=0.01, zero_point=ZERO)
    source.graph.node[-1].input.append("bias")
    source.graph.initializer.append(numpy_helper.from_array(np.linspace(-1, 1, 5, dtype=np.float32), "bias"))
    result = convert(source, recipe="keep")
    assert "bias rounded to steps of its input's scale times its weight's" in result.layers[0].note
    assert np.abs(scores(result.model, ROWS) - scores(source, ROWS)).max() <= 0.51 * 0.05 * 0.01  # half of such a step
    assert convert(result.model, recipe="keep").layers[0].note == "8 bits kept"


def test_a_layer_in_float_stays_in_float() -> None:
    source = convert(small_cnn(transpose=False), X, exclude=("deep",)).model
    result = convert(source, recipe="keep")
    reasons = {layer.name: layer.reason for layer in result.layers}
    assert reasons == {"stem": "", "deep": "its weight has no codes of 8 bits or fewer in the source", "fc": ""}
    np.testing.assert_array_equal(scores(result.model), scores(source))
    solved = convert(source, X)
    assert {layer.bits for layer in solved.layers} == {8}
    assert "Sum" not in {node.op_type for node in solved.model.graph.node}  # what kept the layer in float goes with it


def test_a_constant_operand_stays_on_integers(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["input", "a"], ["h"], "first"),
        helper.make_node("Add", ["h", "shift"], ["s"], "add"),
        helper.make_node("Conv", ["s", "b"], ["output"], "second"),
    ]
    draw = np.random.default_rng(5)
    shapes = {"a": (4, 3, 3, 3), "shift": (1, 4, 1, 1), "b": (4, 4, 1, 1)}
    constants = {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    inputs, outputs = {"input": ["n", 3, SIDE, SIDE]}, {"output": ["n", 4, SIDE - 2, SIDE - 2]}
    source = static(tmp_path, make_model(nodes, constants, inputs=inputs, outputs=outputs), activation_type=U8)
    assert "shift" in read_qdq(open_model(source))[1].ranges
    np.testing.assert_array_equal(scores(convert(source, recipe="keep").model), scores(source))


def test_a_matmul_and_its_add_stay_apart(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["input", "w"], ["product"], "fc"),
        helper.make_node("Add", ["product", "bias"], ["sum"], "add"),
        helper.make_node("MatMul", ["sum", "v"], ["output"], "head"),
    ]
    draw = np.random.default_rng(6)
    constants = {
        name: draw.standard_normal(shape).astype(np.float32)
        for name, shape in {"w": (SIDE, 8), "bias": (8,), "v": (8, 5)}.items()
    }
    model = make_model(nodes, constants, inputs={"input": ["n", 3, SIDE, SIDE]}, outputs={"output": ["n", 3, SIDE, 5]})
    source = static(tmp_path, model, activation_type=U8, per_channel=False)
    np.testing.assert_array_equal(scores(convert(source, recipe="keep").model), scores(source))


# ------------------------------------------------------------------- other targets


def test_signs_of_activations_are_the_targets(tmp_path: Path) -> None:
    symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True}
    source = static(tmp_path, network(), activation_type=S8, weight_type=S8, extra_options=symmetric)
    for target, expected in (("cpu", TensorProto.UINT8), ("tensorrt", TensorProto.INT8)):
        model = convert(source, recipe="keep", target=target).model
        zeros = {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"}
        assert {tensor.data_type for tensor in model.graph.initializer if tensor.name in zeros} == {expected}
        assert sqnr_db(scores(source), scores(model)) > (100 if target == "cpu" else 40)  # int32 biases become floats


def test_a_target_without_integer_layers_gets_the_same_codes(tmp_path: Path) -> None:
    source = static(tmp_path, network(), activation_type=U8)
    result = convert(source, recipe="keep", target="cuda")
    assert {layer.activation_bits for layer in result.layers} == {32}
    assert "QuantizeLinear" not in {node.op_type for node in result.model.graph.node}
    assert any("activations stay in float" in note for report in result.passes for note in report.notes)
    assert sqnr_db(scores(result.reference), scores(result.model)) > 100


def test_int8_storage_of_four_bit_codes() -> None:
    source = convert(small_cnn(transpose=False), X, recipe="int4").model
    result = convert(source, recipe="keep", target="generic")
    assert {(layer.bits, layer.stored_bits) for layer in result.layers} == {(4, 8)}
    np.testing.assert_array_equal(scores(result.model), scores(source))


# ------------------------------------------------------------------- solved again


def test_another_recipe_starts_from_the_dequantized_model(tmp_path: Path) -> None:
    source = static(tmp_path, network(), activation_type=U8)
    warnings: list[str] = []
    result = convert(source, X, recipe="int4", evaluation=(X, np.zeros(len(X), int)), warn=warnings.append)
    assert [text for text in warnings if "is quantized already (3 weights and 8 activations)" in text]
    assert any("quantized already" in note for note in result.to_json()["passes"][0]["notes"])
    assert {layer.bits for layer in result.layers} == {4}
    assert {node.op_type for node in result.reference.graph.node}.isdisjoint({"QuantizeLinear", "DequantizeLinear"})
    assert sqnr_db(scores(result.reference), scores(source)) > 25  # what is left is the activations' own 8 bits
    assert result.metrics is not None
    assert "Clip" not in {node.op_type for node in result.model.graph.node}  # saturation does it again
    assert sqnr_db(scores(result.reference), scores(result.model)) > 10


def test_a_budget_starts_from_the_dequantized_model_too(tmp_path: Path) -> None:
    source = static(tmp_path, network(), activation_type=U8)
    warnings: list[str] = []
    result = convert_within(source, X, Budget(max_drop=100.0), recipe="int8", warn=warnings.append)
    assert [text for text in warnings if "is quantized already" in text]
    assert {layer.bits for layer in result.layers} == {8}


# ------------------------------------------------------------------- refusals


def unsymmetric() -> onnx.ModelProto:
    zero = helper.make_tensor("zero", TensorProto.INT8, [], [5])
    return qdq(dequantize(), codes=PLAIN, scale=0.01, zero_point=zero)


def blocked() -> onnx.ModelProto:
    zeros = helper.make_tensor("zero", TensorProto.INT8, [5, 2], [0] * 10)
    scale = drawn(1, 9)[:, :2] / 100
    return qdq(dequantize(axis=1, block_size=4), codes=PLAIN, scale=scale, zero_point=zeros)


def inputs_scaled() -> onnx.ModelProto:
    zeros = helper.make_tensor("zero", TensorProto.INT8, [8], [0] * 8)
    return qdq(dequantize(axis=1), codes=PLAIN, scale=np.linspace(0.1, 0.2, 8), zero_point=zeros)


def sixteen_bits() -> onnx.ModelProto:
    return qdq(dequantize(), codes=PLAIN, scale=0.01, zero_point=ZERO, activation=TensorProto.UINT16)


def many_scales() -> onnx.ModelProto:
    model = qdq(dequantize(), codes=PLAIN, scale=0.01, zero_point=ZERO)
    for tensor in model.graph.initializer:
        if tensor.name == "x_scale":
            tensor.CopyFrom(numpy_helper.from_array(np.linspace(0.04, 0.06, 8, dtype=np.float32), "x_scale"))
        elif tensor.name == "x_zero":
            tensor.CopyFrom(numpy_helper.from_array(np.full(8, 128, np.uint8), "x_zero"))
    return model


def half_scales() -> onnx.ModelProto:
    model = qdq(dequantize(), codes=PLAIN, scale=0.01, zero_point=ZERO)
    (scale,) = (tensor for tensor in model.graph.initializer if tensor.name == "scale")
    scale.CopyFrom(numpy_helper.from_array(np.array(0.01, np.float16), "scale"))
    model.graph.node.insert(3, helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT))
    model.graph.node[4].input[1] = "wide"
    return model


def two_readers() -> onnx.ModelProto:
    model = qdq(dequantize(), codes=PLAIN, scale=0.01, zero_point=ZERO)
    model.graph.node.append(helper.make_node("Relu", ["input"], ["relu"], "relu"))
    model.graph.output.append(helper.make_tensor_value_info("relu", TensorProto.FLOAT, ["n", 8]))
    return model


def pooled_codes() -> onnx.ModelProto:
    model = qdq(dequantize(), codes=PLAIN, scale=0.01, zero_point=ZERO)
    model.graph.node.insert(1, helper.make_node("Flatten", ["x_codes"], ["flat"], "flat"))
    model.graph.node[2].input[0] = "flat"
    return model


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        (unsymmetric, QuantizationError, r"fc: its weight's grid has zero point 5 \(as int8\).*--exclude fc"),
        (blocked, QuantizationError, "fc: its weight has a scale for every 4 inputs.*--exclude fc"),
        (inputs_scaled, QuantizationError, "fc: its scales lie along no output channels; quantize it again"),
        (sixteen_bits, ModelError, "input is quantized to uint16; activations of 8 bits are read; quantize it to int8"),
        (many_scales, ModelError, "input is quantized with 8 scales of float32; .*quantize it per tensor"),
        (half_scales, ModelError, r"w is a constant in a form that is not read \(int8 with scales of float16\)"),
        (two_readers, QuantizationError, "input is read both quantized and in float.*; quantize it again with"),
        (pooled_codes, ModelError, r"flat \(Flatten\) computes on the codes of input; save it in QDQ form before"),
        (small_cnn, QuantizationError, "nothing to keep: the model is not quantized; use another recipe, such as int8"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    source: Callable[[], onnx.ModelProto], kind: type[ConvertError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        convert(source(), recipe="keep")


@pytest.mark.parametrize("source", [unsymmetric, blocked, inputs_scaled, two_readers])
def test_what_cannot_be_kept_can_be_solved_again(source: Callable[[], onnx.ModelProto]) -> None:
    result = convert(source(), ROWS, recipe="int8")
    assert sqnr_db(scores(source(), ROWS), scores(result.model, ROWS)) > 25


def test_a_block_is_kept_where_activations_stay_in_float() -> None:
    result = convert(blocked(), recipe="keep", target="cuda")
    assert result.layers[0].granularity == "block 4"
    assert sqnr_db(scores(result.reference, ROWS), scores(result.model, ROWS)) > 100


def test_an_unsymmetric_activation_on_a_symmetric_target(tmp_path: Path) -> None:
    source = static(tmp_path, network(), activation_type=U8)
    with pytest.raises(
        QuantizationError, match=r"input: its grid has zero point -?\d+, and the target takes symmetric"
    ):
        convert(source, recipe="keep", target="tensorrt")


def test_a_pass_that_changes_weights_is_refused() -> None:
    nodes = [
        *(node for node in trained().graph.node if node.op_type != "Conv"),
        helper.make_node("Conv", ["x_d", "w_d"], ["raw"], "conv"),
        helper.make_node("BatchNormalization", ["raw", "g", "g", "g", "g"], ["output"], "norm"),
    ]
    constants = [*trained().graph.initializer, numpy_helper.from_array(np.full(4, 0.3, np.float32), "g")]
    source = make_model(nodes, constants, inputs={"input": ["n", 3, 6, 6]}, outputs={"output": ["n", 4, 4, 4]})
    assert convert(source, recipe="keep").layers[0].bits == 8
    recipe = Recipe("r", "", (Normalise(), FoldBatchnorm(), KeepRanges(), KeepCodes()))
    with pytest.raises(QuantizationError, match="conv: its weight is no longer what its codes stand for"):
        convert(source, recipe=recipe)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibration": X}, "recipe 'keep' keeps the grids it finds, so --calibration has no use"),
        ({"bits": {"fc": 4}}, "recipe 'keep' keeps the codes it finds, so --bits has no use"),
    ],
)
def test_options_without_a_use(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        convert(small_cnn(), recipe="keep", **options)
    with pytest.raises(UsageError, match="recipe 'keep' has one result, so a budget has no use"):
        convert_within(small_cnn(), None, Budget(max_drop=1.0), recipe="keep")


# ------------------------------------------------------------------- the command line


@pytest.mark.usefixtures("folder")
def test_from_the_command_line() -> None:
    first = run("convert", "m.onnx", "-o", "int4.onnx", "--recipe", "int4", "--calibration", "calibration.npz", *SCALE)
    assert first.exit_code == 0, first.output
    kept = run("convert", "int4.onnx", "-o", "kept.onnx", "--recipe", "keep", "--exclude", "stem")
    assert kept.exit_code == 0, kept.output
    assert "excluded by the recipe" in kept.output
    again = run("convert", "int4.onnx", "-o", "int8.onnx", "--calibration", "calibration.npz")
    assert again.exit_code == 0, again.output
    assert "is quantized already (4 weights" in again.stderr
    refused = run("convert", "m.onnx", "-o", "no.onnx", "--recipe", "keep")
    assert refused.exit_code == 1
    assert "nothing to keep" in refused.stderr
    assert not Path("no.onnx").exists()
