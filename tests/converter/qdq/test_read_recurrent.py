"""LSTM, GRU and RNN with quantized weights, read back: `keep`, `inspect`, `compare`, `evaluate`, `sensitivity`."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import converter
from converter.pipeline.convert import convert
from converter.qdq.pruned import shares_of_zeros
from converter.recipes.builtin import RECIPES
from converter.report.files import write_report
from converter.targets.catalog import find_target
from converter.verification.rules import violations
from tests.support.graphs import array, build, run
from tests.support.recurrent_layers import FEATURES, HIDDEN, sequences, stacked

X = sequences()


def codes_of(model: onnx.ModelProto) -> dict[str, bytes]:
    kinds = {onnx.TensorProto.INT8, onnx.TensorProto.INT4}
    return {tensor.name: tensor.raw_data for tensor in model.graph.initializer if tensor.data_type in kinds}


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("recipe", ["int8-weight-only", "int4-weight-only-rtn"])
def test_keep_writes_the_same_codes(op: str, recipe: str, tmp_path: Path) -> None:
    first = convert(stacked(op, 2), recipe=recipe)
    first.save(tmp_path / "first.onnx")
    again = convert(tmp_path / "first.onnx", recipe="keep")
    assert codes_of(again.model) == codes_of(first.model)
    assert np.array_equal(run(first.model, X)[0], run(again.model, X)[0])
    bits = 8 if "int8" in recipe else 4
    kept = [layer for layer in again.layers if layer.op == op]
    assert [(layer.bits, layer.note) for layer in kept] == [(bits, f"{bits} bits kept")] * 2


def test_blocks_are_kept() -> None:
    recipe = RECIPES["int8-weight-only"].with_solver(bits=4, block_size=8)
    first = convert(stacked("LSTM"), recipe=recipe)
    again = convert(first.model, recipe="keep")
    assert {layer.name: layer.granularity for layer in again.layers} == {"rnn0": "block 8", "head": "block 8"}
    assert np.array_equal(run(first.model, X)[0], run(again.model, X)[0])


def test_another_recipe_starts_from_the_dequantized_weights(caplog: pytest.LogCaptureFixture) -> None:
    first = convert(stacked("GRU"), recipe="int8-weight-only")
    again = convert(first.model, recipe="int4-weight-only-rtn")
    assert {layer.name: layer.bits for layer in again.layers} == {"rnn0": 4, "head": 4}
    assert "the model is quantized already (3 weights and 0 activations)" in caplog.text


def dequantized() -> onnx.ModelProto:
    """Return a file with DequantizeLinear, by another tool.

    W has a scale for the whole tensor and uint8 codes, R one for each row of its only direction.
    """
    model = stacked("LSTM", directions=1)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    of_w = np.float32(np.abs(values["W0"]).max() / 127)
    of_r = np.abs(values["R0"][0]).max(axis=1) / np.float32(127)
    stored = {
        "W_codes": (np.rint(values["W0"] / of_w) + 128).astype(np.uint8),
        "W_scale": of_w,
        "W_zero": np.array(128, np.uint8),
        "R_codes": np.rint(values["R0"] / of_r[:, None]).astype(np.int8),
        "R_scale": of_r,
    }
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(each), name) for name, each in stored.items())
    model.graph.node[0].input[1:3] = ["W", "R"]
    dequantize = [
        helper.make_node("DequantizeLinear", ["W_codes", "W_scale", "W_zero"], ["W"]),
        helper.make_node("DequantizeLinear", ["R_codes", "R_scale"], ["R"], axis=1),
    ]
    nodes = [*dequantize, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def test_a_file_with_dequantize_linear_by_another_tool() -> None:
    model = dequantized()
    layer = {each.name: each for each in converter.inspect(model).layers}["rnn0"]
    assert (layer.weight_bits, layer.storage, layer.granularity) == (8, "uint8 and int8", "tensor and channel")
    result = convert(model, recipe="keep")
    report = {each.name: each for each in result.layers}["rnn0"]
    assert (report.bits, report.note) == (8, "8 bits kept")
    assert np.array_equal(run(model, X)[0], run(result.model, X)[0])


def test_r_is_no_bias_of_an_integer_layer() -> None:
    model = dequantized()
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.05, np.float32), "step"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), "zero"))
    read = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["codes"], name="quantize"),
        helper.make_node("DequantizeLinear", ["codes", "step", "zero"], ["read"]),
    ]
    next(node for node in model.graph.node if node.op_type == "LSTM").input[0] = "read"
    for index, node in enumerate(read):
        model.graph.node.insert(index, node)
    found = {each.fact: each.what for each in violations(model, find_target("tensorrt")) if "rnn0" in each.what}
    assert found["linear"] == "rnn0: no integer LSTM, so it runs on dequantized floats"
    assert "bias" not in found


def half_quantized(operand: int, recipe: str = "int4-weight-only-rtn", op: str = "RNN") -> onnx.ModelProto:
    """Return a file in which only one weight has codes. The operand 1 (W) or 2 (R) reads its floats again."""
    model = convert(stacked(op), recipe=recipe).model
    floats, name = stacked(op).graph.initializer, {1: "W0", 2: "R0"}[operand]
    index = next(index for index, node in enumerate(model.graph.node) if node.op_type == op)
    model.graph.node[index].input[operand] = name
    model.graph.initializer.extend(tensor for tensor in floats if tensor.name == name)
    return model


@pytest.mark.parametrize(("operand", "name"), [(1, "W"), (2, "R")])
def test_a_layer_with_one_quantized_weight_has_a_reason(operand: int, name: str) -> None:
    model = half_quantized(operand, "int8-weight-only")
    report = {each.name: each for each in convert(model, recipe="keep").layers}["rnn0"]
    assert report.reason == f"its weight {name} has no codes of 8 bits or fewer in the source"


@pytest.mark.parametrize(("operand", "name"), [(1, "W"), (2, "R")])
def test_tools_see_both_weights(operand: int, name: str) -> None:
    model = half_quantized(operand)
    layer = {each.name: each for each in converter.inspect(model).layers}["rnn0"]
    storage = ["int4 rescale", "int4 rescale"]
    storage[operand - 1] = "float32"
    assert (layer.weight_bits, layer.storage) == (32, " and ".join(storage))
    assert layer.granularity == {"W": "block 4", "R": "block 3"}[name]
    assert layer.reason == f"weight {name} is float32"
    found = [each.what for each in violations(model, find_target("tensorrt")) if each.fact == "weight_only"]
    assert found.count("rnn0: its weight is quantized and its input is float") == 1
    whole = convert(stacked("RNN"), recipe="int4-weight-only-rtn").model
    assert [each.what for each in violations(whole, find_target("tensorrt")) if each.fact == "weight_only"] == found


def test_a_weight_that_is_an_input_is_named() -> None:
    model = half_quantized(2)
    node = next(node for node in model.graph.node if node.op_type == "RNN")
    shape = next(list(tensor.dims) for tensor in model.graph.initializer if tensor.name == "R0")
    node.input[2] = "moved"
    model.graph.input.append(helper.make_tensor_value_info("moved", onnx.TensorProto.FLOAT, shape))
    layer = {each.name: each for each in converter.inspect(model).layers}["rnn0"]
    assert (layer.weight_bits, layer.granularity, layer.reason) == (4, "block 3", "weight R is no constant")


@pytest.mark.parametrize(
    ("name", "zeros"), [("W0", FEATURES / (FEATURES + HIDDEN)), ("R0", HIDDEN / (FEATURES + HIDDEN))]
)
@pytest.mark.parametrize("recipe", ["", "int8-weight-only"])
def test_zeros_are_counted_in_both_weights(name: str, zeros: float, recipe: str) -> None:
    model = stacked("GRU")
    (tensor,) = (each for each in model.graph.initializer if each.name == name)
    tensor.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(tensor), name))
    model = convert(model, recipe=recipe).model if recipe else model
    model.metadata_props.add(key="convert_onnx.pruned", value='{"head": "unstructured"}')
    assert shares_of_zeros(model)["rnn0"] == pytest.approx(zeros, abs=0.01)


def test_inspect_lists_them(tmp_path: Path) -> None:
    convert(stacked("GRU"), recipe="int4-weight-only-rtn").save(tmp_path / "quantized.onnx")
    layer = {each.name: each for each in converter.inspect(tmp_path / "quantized.onnx").layers}["rnn0"]
    assert (layer.op, layer.weight_bits, layer.storage) == ("GRU", 4, "int4 rescale")
    assert layer.reason == "float activations; dequantized at load"
    assert layer.bytes > 2 * 3 * 32 * (24 + 32) // 2  # the codes of W and R at least
    before = {each.name: each for each in converter.inspect(stacked("GRU")).layers}["rnn0"]
    assert (before.weight_bits, before.storage, before.reason) == (32, "float32", "weight is float32")


def test_compare_evaluate_and_sensitivity_know_them() -> None:
    model = stacked("LSTM", 2)
    result = convert(model, recipe="int4-weight-only-rtn")
    x = sequences(1)[:, 0][None].repeat(9, axis=0)
    comparison = converter.compare(model, result.model, x)
    assert {name for entry in comparison.layers for name in entry.layers} == {"rnn0", "rnn1", "head"}
    suggestion = converter.suggest(model, result.model, comparison, x)
    named = {*suggestion.exclude, *(suggestion.bits or {})}
    assert named
    mended = convert(model, recipe="int4-weight-only-rtn", bits=dict.fromkeys(named, 8))
    assert {layer.name: layer.bits for layer in mended.layers if layer.name in named} == dict.fromkeys(named, 8)
    first, second = converter.evaluate([model, result.model, mended.model], x, latency=False).models[1:]
    assert first.sqnr_db is not None
    assert second.sqnr_db is not None
    assert 14 < first.sqnr_db < second.sqnr_db < 60
    found = converter.sensitivity(model, x, recipe="int4-weight-only-rtn")
    assert {source.name for source in found.sources} == {"rnn0", "rnn1", "head"}


def test_the_report_has_their_bytes_and_storage(tmp_path: Path) -> None:
    result = convert(stacked("LSTM"), recipe="int8-weight-only")
    layer = {each["name"]: each for each in converter.report_facts(result)["layers"]}["rnn0"]
    assert layer["storage"] == "int8 rescale"
    rows = 2 * 4 * 32
    assert layer["bytes"] == rows * (24 + 32) + 2 * 4 * rows  # codes, and a scale of W and of R for each row
    write_report(result, tmp_path / "report.html")
    assert "rnn0" in (tmp_path / "report.html").read_text()


def test_the_report_of_an_operator_without_roles() -> None:
    """An Einsum with a constant is no layer, and its row has a reason."""
    nodes = [
        helper.make_node("Einsum", ["x", "e"], ["s"], name="sum", equation="tnf,fg->tng"),
        helper.make_node("MatMul", ["s", "w"], ["y"], name="head"),
    ]
    model = build(nodes, {"e": array(24, 24), "w": array(24, 5)}, [9, "n", 24])
    result = convert(model, recipe="int8-weight-only")
    layers = {each["name"]: each for each in converter.report_facts(result)["layers"]}
    assert layers["sum"]["reason"] == "no pass quantizes Einsum"
    assert (layers["sum"]["storage"], layers["sum"]["bytes"]) == ("none", 0)
