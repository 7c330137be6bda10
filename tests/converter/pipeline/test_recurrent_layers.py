"""LSTM, GRU and RNN in recipes that quantize weights: codes for each row of each direction, and float arithmetic."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import converter
from converter.pipeline.convert import convert
from converter.pipeline.result import LayerReport, Result
from converter.recipes.builtin import RECIPES, find_recipe
from passes.errors import ConvertError, ModelError
from passes.numerics.error import sqnr_db
from passes.weights.bias_correction import BiasCorrection
from tests.support.graphs import array, run
from tests.support.recurrent_layers import CLASSES, FEATURES, HIDDEN, sequences, stacked

X = sequences()
WEIGHT_ONLY = ("int8-weight-only", "int4-weight-only-rtn", "int4-weight-only", "int4-matmulnbits")
OPERATORS = ("LSTM", "GRU", "RNN")


def report_of(result: Result, name: str = "rnn0") -> LayerReport:
    return {layer.name: layer for layer in result.layers}[name]


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def with_floats(model: onnx.ModelProto, floats: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Return a copy of a model with other values of constants."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name in floats:
            tensor.CopyFrom(numpy_helper.from_array(floats[tensor.name].astype(np.float32), tensor.name))
    return changed


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("directions", [1, 2])
def test_the_file_has_int8_rows_and_computes_with_their_floats(op: str, directions: int) -> None:
    model = stacked(op, directions=directions, head=False)
    result = convert(model, recipe="int8-weight-only")
    before, stored = constants(model), constants(result.model)
    floats = {}
    for name in ("W0", "R0"):
        codes, scale = stored[f"{name}_int8"], stored[f"{name}_scale"]
        assert codes.dtype == np.int8
        assert scale.shape == (*before[name].shape[:2], 1)  # one for each row of each direction
        floats[name] = codes.astype(np.float32) * scale
        for index in range(directions):
            assert sqnr_db(before[name][index], floats[name][index]) > 38
    assert np.array_equal(stored["B0"], before["B0"])
    assert np.array_equal(run(result.model, X)[0], run(with_floats(model, floats), X)[0])
    report = report_of(result)
    gates = before["W0"].shape[1]
    assert report.shape == (directions, gates, FEATURES + HIDDEN)
    assert (report.op, report.bits, report.stored_bits, report.granularity) == (op, 8, 8, "channel")
    assert (report.activation_bits, report.reason) == (32, "")
    assert report.note == "8 bits per channel, rounded to nearest"


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("recipe", WEIGHT_ONLY)
def test_every_recipe_for_weights_only_quantizes_them(op: str, recipe: str) -> None:
    model = stacked(op, 2)
    result = convert(model, X if RECIPES[recipe].needs_calibration else None, recipe=recipe)
    bits = 8 if "int8" in recipe else 4
    recurrent = [layer for layer in result.layers if layer.op == op]
    assert [layer.bits for layer in recurrent] == [bits, bits]
    for layer in recurrent:
        assert layer.before_db is not None
        assert layer.after_db is not None
        assert layer.after_db > layer.before_db
        assert layer.after_db > (38 if bits == 8 else 17)
    stored = result.model.graph.initializer
    large = [t for t in stored if t.data_type == TensorProto.FLOAT and np.prod(t.dims) > 8 * HIDDEN * FEATURES // 2]
    assert not large
    assert sqnr_db(run(model, X)[0], run(result.model, X)[0]) > (35 if bits == 8 else 14)


@pytest.mark.parametrize(("recipe", "times"), [("int8-weight-only", 3.5), ("int4-weight-only-rtn", 5.5)])
def test_the_weights_take_fewer_bytes(recipe: str, times: float) -> None:
    model = stacked("LSTM", 3)
    weights = sum(values.nbytes for name, values in constants(model).items() if name[0] in "WR")
    result = convert(model, recipe=recipe)
    coded = sum(layer["bytes"] for layer in converter.report_facts(result)["layers"] if layer["op"] == "LSTM")
    assert coded < weights / times


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("GRU", {"linear_before_reset": 1}),
        ("GRU", {"linear_before_reset": 0, "clip": 2.0}),
        ("LSTM", {"input_forget": 1}),
        ("RNN", {"activations": ["Relu", "Tanh"]}),
    ],
)
def test_attributes_stay(op: str, attributes: dict[str, Any]) -> None:
    model = stacked(op, **attributes)
    result = convert(model, recipe="int8-weight-only")
    written = next(node for node in result.model.graph.node if node.op_type == op)
    assert set(attributes) <= {entry.name for entry in written.attribute}
    assert sqnr_db(run(model, X)[0], run(result.model, X)[0]) > 35


def test_later_layers_make_up_for_their_error() -> None:
    """GPTQ solves the head on what the rounded LSTM gives it, towards what the float LSTM does."""
    model, coarse = stacked("LSTM"), {"rnn0": 3, "head": 8}
    errors = {}
    for solver in ("int4-weight-only-rtn", "int4-matmulnbits"):
        recipe = RECIPES[solver].with_solver(block_size=None, two_level=False)
        result = convert(model, X, recipe=dataclasses.replace(recipe, storage="int8"), bits=coarse)
        errors[solver] = sqnr_db(run(model, X)[0], run(result.model, X)[0])
    assert errors["int4-matmulnbits"] > errors["int4-weight-only-rtn"] + 3


def test_peepholes_and_states_stay_in_float() -> None:
    model = stacked("LSTM")
    extra = {"P": np.full((2, 3 * HIDDEN), 0.1, np.float32), "h": np.full((2, 6, HIDDEN), 0.2, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in extra.items())
    model.graph.node[0].input.extend(["", "h", "h", "P"])
    result = convert(model, recipe="int4-weight-only-rtn")
    stored = constants(result.model)
    assert all(np.array_equal(stored[name], values) for name, values in extra.items())
    assert sqnr_db(run(model, X)[0], run(result.model, X)[0]) > 14


def test_layers_that_share_their_weights_store_them_once() -> None:
    model = stacked("GRU", 2, shared=True)
    result = convert(model, recipe="int8-weight-only")
    stored = constants(result.model)
    assert [name for name in stored if name.startswith("W") and stored[name].dtype == np.int8] == ["W0_int8"]
    first, second = (next(n for n in result.model.graph.node if n.name == name) for name in ("rnn0", "rnn1"))
    assert first.input[1:3] == second.input[1:3]
    assert report_of(result, "rnn1").bits == 8
    assert sqnr_db(run(model, X)[0], run(result.model, X)[0]) > 33


def test_a_layer_in_float_keeps_the_shared_weights_as_they_are() -> None:
    model = stacked("GRU", 2, shared=True)
    result = convert(model, recipe="int8-weight-only", exclude=["rnn0"])
    assert report_of(result, "rnn0").reason == "excluded by the recipe"
    assert report_of(result, "rnn1").bits == 8
    first = next(node for node in result.model.graph.node if node.name == "rnn0")
    assert np.array_equal(constants(result.model)[first.input[1]], constants(model)["W0"])


def test_one_weight_as_w_and_r() -> None:
    model = stacked("RNN", head=False)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = HIDDEN
    model.graph.node[0].input[1] = "R0"
    result = convert(model, recipe="int8-weight-only")
    x = np.resize(X, (9, 6, HIDDEN))
    assert [name for name, each in constants(result.model).items() if each.dtype == np.int8] == ["R0_int8"]
    assert sqnr_db(run(model, x)[0], run(result.model, x)[0]) > 33


def test_weights_that_are_activations_stay_in_float_with_a_reason() -> None:
    model = stacked("LSTM")
    model.graph.node[0].input[1] = "moved"
    shape = list(constants(model)["W0"].shape)
    model.graph.input.append(onnx.helper.make_tensor_value_info("moved", TensorProto.FLOAT, shape))
    report = report_of(convert(model, recipe="int8-weight-only"))
    assert (report.bits, report.reason) == (32, "its weight W is an activation")


def test_recipes_that_calibrate_quantize_only_those_that_are_named() -> None:
    model = stacked("LSTM", 2)
    result = convert(model, X, recipe="int8", bits={"rnn1": 8})
    assert report_of(result, "rnn0").reason == "no pass quantizes LSTM"
    assert (report_of(result, "rnn1").bits, report_of(result, "rnn1").activation_bits) == (8, 32)
    assert sqnr_db(run(model, X)[0], run(result.model, X)[0]) > 20


def test_bits_of_one_layer() -> None:
    result = convert(stacked("GRU", 2), recipe="int8-weight-only", bits={"rnn1": 5})
    assert [report_of(result, name).bits for name in ("rnn0", "rnn1")] == [8, 5]


def test_float16_models() -> None:
    model = stacked("LSTM", dtype=np.float16)
    settings = converter.Settings(float16=True)
    for chosen in (converter.Settings(), settings):
        result = convert(model, recipe="int8-weight-only", settings=chosen)
        assert report_of(result).bits == 8
        outputs = (run(each, X.astype(np.float16))[0].astype(np.float32) for each in (model, result.model))
        assert sqnr_db(*outputs) > 33


def test_corrections_leave_them_as_they_are() -> None:
    model = stacked("GRU", head=False)
    plain = RECIPES["int8-weight-only"]
    corrected = convert(model, X, recipe=plain.with_pass(BiasCorrection()))
    assert report_of(corrected).bits == 8
    assert np.array_equal(run(convert(model, X, recipe=plain).model, X)[0], run(corrected.model, X)[0])


def test_a_model_of_recurrent_layers_alone() -> None:
    model = stacked("GRU", head=False)
    assert report_of(convert(model, recipe="int4-weight-only-rtn")).bits == 4
    with pytest.raises(ModelError, match="the recipe leaves GRU in float, and the model has no other layers; use"):
        convert(model, X, recipe="int8")


@pytest.mark.parametrize("target", ["generic", "openvino", "cuda", "mobile", "cpu-avx2"])
def test_targets(target: str) -> None:
    model = stacked("LSTM")
    for input_or_output in (*model.graph.input, *model.graph.output):
        input_or_output.type.tensor_type.shape.dim[1].dim_value = 6
    result = convert(model, recipe="int4-weight-only-rtn", target=target)
    assert report_of(result).bits == 4
    assert sqnr_db(run(model, X)[0], run(result.model, X)[0]) > 14
    assert not [each for each in converter.verify(result.model, target).violations if each.what.startswith("rnn0")]


def test_a_target_without_weight_only_files() -> None:
    model = stacked("LSTM")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 6
    recipe = find_recipe("int8").with_solver(recurrent=True)
    report = report_of(convert(model, X, recipe=recipe, target="tensorrt"))
    assert report.reason == "the target reads no weights that the file dequantizes"


def test_min_sqnr_gives_them_more_bits() -> None:
    model = stacked("LSTM", 2)
    settings = converter.Settings(min_sqnr=24, timing=False)
    result = convert(model, X, recipe="int4-weight-only-rtn", settings=settings)
    assert result.mending is not None
    assert {"rnn0", "rnn1"} & set(result.mending.bits)
    assert sqnr_db(run(model, X)[0], run(result.model, X)[0]) > 22


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConvertError, match="rnn7"):
        convert(stacked("LSTM"), recipe="int8-weight-only", exclude=["rnn7"])


def test_a_layer_in_a_branch_stays_in_float_with_a_reason() -> None:
    model = stacked("GRU")
    graph = model.graph
    output = graph.node[0].output[0]
    shape = onnx.helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    zeros = onnx.helper.make_node("Mul", ["start", "start"], [output])
    branches = {"then_branch": [graph.node[0]], "else_branch": [zeros]}
    bodies = {name: onnx.helper.make_graph(nodes, name, [], [shape]) for name, nodes in branches.items()}
    choice = onnx.helper.make_node("If", ["chosen"], [output], name="choice", **bodies)
    graph.initializer.append(numpy_helper.from_array(np.ones((9, 2, 6, HIDDEN), np.float32), "start"))
    graph.node[0].CopyFrom(choice)
    graph.input.append(onnx.helper.make_tensor_value_info("chosen", TensorProto.BOOL, []))
    report = report_of(convert(model, recipe="int8-weight-only"))
    assert (report.op, report.bits, report.reason) == ("GRU", 32, "inside the If choice")


def test_a_search_gives_them_8_bits() -> None:
    model = stacked("LSTM", 2)
    most = len(model.SerializeToString()) // 2
    result = converter.convert_within(model, X.repeat(4, axis=0), converter.Budget(max_bytes=most))
    assert [report_of(result, name).bits for name in ("rnn0", "rnn1")] == [8, 8]
    again = convert(model, X, recipe=result.recipe)
    assert [report_of(again, name).bits for name in ("rnn0", "rnn1")] == [8, 8]


@pytest.mark.parametrize("first", ["auto", "int8"])
def test_searches_by_two_recipes_keep_their_files_apart(first: str, tmp_path: Path) -> None:
    """Recipe `auto` has an attempt `int8` with 8 bits in the LSTM. Recipe `int8` leaves the LSTM in float."""
    model, budget, found = stacked("LSTM"), converter.Budget(max_bytes=10**6), {}
    for recipe in (first, {"auto": "int8", "int8": "auto"}[first]):
        result = converter.convert_within(model, X.repeat(4, axis=0), budget, recipe=recipe, cache=tmp_path)
        assert result.search is not None
        found[recipe] = next(each for each in result.search.attempts if each.name == "int8")
    assert found["auto"].layer_bits == {"rnn0": 8, "head": 8}
    assert found["int8"].layer_bits == {"head": 8}
    assert found["auto"].bytes < found["int8"].bytes / 2


def test_a_search_with_a_layer_that_clean_up_removes() -> None:
    model = stacked("LSTM")
    head = next(node for node in model.graph.node if node.name == "head")
    head.input[:] = ["x", "from_x"]  # nothing reads the LSTM
    model.graph.initializer.append(numpy_helper.from_array(array(FEATURES, CLASSES), "from_x"))
    result = converter.convert_within(model, X.repeat(4, axis=0), converter.Budget(max_bytes=10**6))
    assert [(layer.name, layer.bits) for layer in result.layers] == [("head", 8)]
