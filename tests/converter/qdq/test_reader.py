"""Quantized files as input: their float models, and the same codes written again."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter import convert, convert_within
from converter.budget.limits import Budget
from converter.model_io.open import open_model
from converter.qdq.reader import read_qdq
from converter.recipes.builtin import RECIPES
from converter.report.facts import conversion_facts
from passes.activations.keep_ranges import KeepRanges
from passes.graph.normalise.normalise import Normalise
from passes.numerics.error import sqnr_db
from passes.weights.keep import KeepCodes
from tests.support.command_line import SCALE, run
from tests.support.graphs import run as unoptimized
from tests.support.models import SIDE, make_model
from tests.support.quantized_files import (
    PLAIN,
    ROWS,
    S8,
    U8,
    ZERO,
    X,
    dequantize,
    drawn,
    network,
    qdq,
    scores,
    static,
    trained,
)

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
    actual = dataclasses.replace(RECIPES["keep"], passes=(Normalise(rewrite=False), KeepRanges("found"), KeepCodes()))
    np.testing.assert_array_equal(scores(convert(source, recipe=actual).model), scores(source))
    result = convert(source, recipe="keep")
    # as the graph says them: kernels for uint8 and int8 round differently once in some hundred values
    np.testing.assert_array_equal(unoptimized(result.model, X)[0], unoptimized(source, X)[0])
    if activations is U8:
        np.testing.assert_array_equal(scores(result.model), scores(source))
    assert {layer.name: (layer.bits, layer.activation_bits) for layer in result.layers} == dict.fromkeys(
        ("stem", "deep", "fc"), (8, 8)
    )
    rewritten = convert(result.model, recipe="keep")
    assert rewritten.model.graph == result.model.graph


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
    model, actual = read_qdq(open_model(qdq(dequantize(axis=0), codes=codes, scale=scale, zero_point=zeros)))
    expected = ((drawn(low, high) - zero).astype(np.float32) * scale[:, None]).astype(np.float32)
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "w")
    np.testing.assert_array_equal(numpy_helper.to_array(weight), expected)
    assert actual.weights["w"].bits == bits
    assert [node.op_type for node in model.graph.node] == ["Gemm"]
    assert list(model.graph.node[0].input) == ["input", "w"]
    result = convert(qdq(dequantize(axis=0), codes=codes, scale=scale, zero_point=zeros), recipe="keep")
    assert result.layers[0].bits == bits
    steps = np.clip(np.rint(ROWS / np.float32(0.05)) + 128, 0, 255) - 128
    exact = (steps * np.float32(0.05)).astype(np.float64) @ expected.T.astype(np.float64)
    assert sqnr_db(exact.astype(np.float32), scores(result.model, ROWS)) > 100  # float32 products of the same integers


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("reduced", [False, True])
def test_a_trained_file(clip: bool, reduced: bool) -> None:
    source = trained(clip=clip, reduced=reduced)
    model, actual = read_qdq(open_model(source))
    assert list(actual.weights) == ["w"]
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


# ------------------------------------------------------------------- solved again


def test_another_recipe_starts_from_the_dequantized_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = static(tmp_path, network(), activation_type=U8)
    result = convert(source, X, recipe="int4", evaluation=(X, np.zeros(len(X), int)))
    assert [text for text in caplog.messages if "is quantized already (3 weights and 8 activations)" in text]
    assert any("quantized already" in note for note in conversion_facts(result)["passes"][0]["notes"])
    assert {layer.bits for layer in result.layers} == {4}
    assert {node.op_type for node in result.reference.graph.node}.isdisjoint({"QuantizeLinear", "DequantizeLinear"})
    assert sqnr_db(scores(result.reference), scores(source)) > 25  # what is left is the activations' own 8 bits
    assert result.metrics is not None
    assert "Clip" not in {node.op_type for node in result.model.graph.node}  # saturation does it again
    assert sqnr_db(scores(result.reference), scores(result.model)) > 10


def test_a_budget_starts_from_the_dequantized_model_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = static(tmp_path, network(), activation_type=U8)
    result = convert_within(source, X, Budget(max_drop=100.0), recipe="int8")
    assert [text for text in caplog.messages if "is quantized already" in text]
    assert {layer.bits for layer in result.layers} == {8}


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


@pytest.mark.parametrize(("kind", "low"), [("INT8", -128), ("UINT8", 0), ("INT16", -32768)])
def test_codes_without_a_zero_point_have_the_type_that_the_node_says(kind: str, low: int) -> None:
    attributes: dict[str, Any] = {"output_dtype": int(TensorProto.DataType.Value(kind))}
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale"], ["codes"], "q", **attributes),
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["floats"], "d"),
        helper.make_node("Gemm", ["floats", "w"], ["output"], "fc"),
    ]
    constants = {"scale": np.array(0.05, np.float32), "w": np.eye(8, 5, dtype=np.float32)}
    model = make_model(nodes, constants, inputs={"input": ["n", 8]}, outputs={"output": ["n", 5]}, opset=21)
    _, found = read_qdq(model)
    assert found.ranges["input"].code_range[0] == low


@pytest.mark.parametrize("kind", [np.int8, np.int16])
def test_a_zero_point_may_stand_at_the_quantize_node_alone(kind: type) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["codes"], "q"),
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["floats"], "d"),
        helper.make_node("Gemm", ["floats", "w"], ["output"], "fc"),
    ]
    constants = {
        "scale": np.array(0.05, np.float32),
        "zero": np.array(0, kind),
        "w": np.eye(8, 5, dtype=np.float32),
    }
    model = make_model(nodes, constants, inputs={"input": ["n", 8]}, outputs={"output": ["n", 5]}, opset=21)
    _, found = read_qdq(model)
    assert found.ranges["input"].signed
    assert "input" not in found.unkept
