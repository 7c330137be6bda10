"""The library call on tiny models: what it reports, records and refuses, and that each recipe does its work."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from converter import Preprocess, Recipe, Result, Settings, convert, find_recipe
from converter.data.dataset import load_data
from converter.data.inputs import input_specs
from converter.data.preprocess import stored_preprocess
from converter.recipes.builtin import RECIPES, stored_recipe
from converter.report.facts import conversion_facts
from converter.runtime.session import open_session
from models.zoo import ZOO, feeds_of
from passes.activations.activation_ranges import ActivationRanges
from passes.errors import ConvertError, DataError, QuantizationError, RecipeError, TargetError, UsageError
from passes.graph.exclude import Exclude
from passes.graph.fold_batchnorm import FoldBatchnorm
from passes.graph.normalise.normalise import Normalise
from passes.numerics.error import sqnr_db
from passes.weights.gptq import Gptq
from passes.weights.rtn import Rtn
from tests.support.networks import branches, conv, decibels, images, network, random, resnet, run, shape_branch
from tests.support.recipes import LEARNING, SOLVING, brief

X, UNSEEN = images(48, 3, 12, 12), images(32, 3, 12, 12, seed=9)
LAYERS = ["stem", "block.conv1", "block.conv2", "silu.conv", "depthwise", "last", "fc"]
PREPARE = (Normalise(), FoldBatchnorm())


def bits(result: Result) -> dict[str, int]:
    return {layer.name: layer.bits for layer in result.layers}


def metadata(result: Result) -> dict[str, str]:
    return {entry.key: entry.value for entry in result.model.metadata_props}


EIGHT_BITS = {"int8", "int8-gptq", "int8-2of4", "int8-weight-only", "dynamic"}
INTEGERS = {*EIGHT_BITS - {"int8-weight-only", "dynamic"}, "int4", "int2-learned", "int4-pruned", "int4-qat"}


def bits_of(name: str) -> int:
    """Bits of the weights of a built-in recipe."""
    return 8 if name in EIGHT_BITS else 2 if name == "int2-learned" else 4


AS_THEY_ARE = [pytest.param(name, marks=pytest.mark.slow if name in LEARNING else ()) for name in SOLVING]


@pytest.mark.parametrize("name", AS_THEY_ARE)
def test_every_recipe_makes_a_file_that_onnxruntime_loads(name: str, tmp_path: Path) -> None:
    result = convert(resnet(), X, recipe=name)
    path = tmp_path / f"{name}.onnx"
    result.save(path)
    onnx.checker.check_model(str(path), full_check=True)
    session = open_session(path, threads=1)
    expected = run(resnet(), UNSEEN)[0]
    found = np.asarray(session.run(None, {"x": UNSEEN})[0])
    # 7 layers: 8 bits leave 40 dB each, 4 bits 17 dB or so with a scale per channel; half of that is a broken layer
    assert sqnr_db(expected, found) > {8: 30, 4: 12, 2: 5}[bits_of(name)]
    assert [layer.name for layer in result.layers] == LAYERS
    assert {layer.bits for layer in result.layers} == {bits_of(name)}
    expected_bits = {8, 32} if name == "dynamic" else {8 if name in INTEGERS else 32}  # its convolutions read floats
    assert {layer.activation_bits for layer in result.layers} == expected_bits
    assert (result.target, result.recipe.name) == ("cpu", name)


@pytest.mark.parametrize("graph", ["conv 1-D", "conv 3-D"])
@pytest.mark.parametrize("name", SOLVING)
def test_convolutions_of_one_and_three_dimensions(name: str, graph: str) -> None:
    proto = ZOO[graph]()
    result = convert(proto, feeds_of(proto, 20), recipe=brief(name))
    assert {layer.bits for layer in result.layers} == {bits_of(name)}


@pytest.mark.parametrize("name", SOLVING)
def test_other_shapes_of_network(name: str) -> None:
    for proto, data in (
        (branches(), {"a": images(20, 3, 8, 8), "b": images(20, 4)}),
        (branches(batch=8), {"a": images(20, 3, 8, 8), "b": images(20, 4)}),
        (shape_branch(), images(20, 3, 8, 8)),
    ):
        if name == "int4-qat" and load_data(data, input_specs(proto)).static_batch:
            with pytest.raises(DataError, match="batch is fixed to 8"):
                convert(proto, data, recipe=brief(name))
            continue
        result = convert(proto, data, recipe=brief(name))
        assert len(result.layers) == len({layer.name for layer in result.layers})
        assert all(layer.bits < 32 for layer in result.layers)
        open_session(result.model, threads=1)


def test_every_layer_is_reported_once_by_the_result_and_by_every_pass() -> None:
    constants: dict[str, NDArray[Any]] = {"w": random(8, 5), "rows": random(4, 5)}
    nodes = [
        conv(constants, "conv", "x", "a", (8, 3, 3, 3)),
        helper.make_node("GlobalAveragePool", ["a"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "w"], ["b"], "gemm"),
        helper.make_node("Transpose", ["b"], ["turned"], "turn"),
        helper.make_node("MatMul", ["b", "turned"], ["product"], "product"),
        helper.make_node("Gemm", ["flat", "w", "rows"], ["c"], "per_row"),
        helper.make_node("MatMul", ["product", "c"], ["y"], "head"),
    ]
    proto = network(nodes, constants, {"x": [4, 3, 8, 8]}, {"y": [4, 5]})
    result = convert(proto, images(12, 3, 8, 8), recipe="int8")
    reported = {layer.name: (layer.bits, layer.reason) for layer in result.layers}
    assert len(reported) == len(result.layers)
    assert reported == {
        "conv": (8, ""),
        "gemm": (8, ""),
        "product": (32, "both operands are activations"),
        "per_row": (32, "its bias differs from row to row"),
        "head": (32, "both operands are activations"),
    }
    for report in result.passes:
        assert {*report.changed, *report.skipped} >= {"conv", "gemm"}
        assert not set(report.changed) & set(report.skipped)
    assert sqnr_db(run(proto, images(4, 3, 8, 8))[0], run(result.model, images(4, 3, 8, 8))[0]) > 25


@pytest.mark.parametrize("shape", [(5,), (1, 5), (1,), ()])
def test_a_bias_in_any_shape_that_is_the_same_for_every_row(shape: tuple[int, ...]) -> None:
    proto = network(
        [helper.make_node("Gemm", ["x", "w", "c"], ["y"], "layer")],
        {"w": random(8, 5), "c": random(*shape)},
        {"x": ["N", 8]},
        {"y": ["N", 5]},
    )
    data = images(40, 8)
    for name in SOLVING:
        result = convert(proto, data, recipe=brief(name))
        assert bits(result) == {"layer": bits_of(name)}
        assert decibels(result, data) > (5 if name == "int2-learned" else 15)


def test_a_bias_per_row_of_as_many_rows_as_outputs_is_not_taken_for_one_per_output() -> None:
    proto = network(
        [helper.make_node("Gemm", ["x", "w", "c"], ["y"], "layer")],
        {"w": random(8, 5), "c": 10 * random(5, 1)},
        {"x": [5, 8]},
        {"y": [5, 5]},
    )
    result = convert(proto, images(40, 8), recipe="int8")
    assert decibels(result, images(5, 8)) > 30


def test_provenance() -> None:
    plan = replace(RECIPES["int4"], preprocess=Preprocess(mean=(0.5,), std=(0.25,)))
    result = convert(resnet(), X, recipe=plan, settings=Settings(limit=32))
    found = {key.removeprefix("convert_onnx."): value for key, value in metadata(result).items()}
    recipe = stored_recipe(result.model, "the file")
    assert (recipe.passes, recipe.limit) == (RECIPES["int4"].passes, 32)
    assert json.loads(found["layer_bits"]) == dict.fromkeys(LAYERS, 4)
    assert json.loads(found["float_reasons"]) == {}
    calibration = json.loads(found["calibration"])
    assert calibration["images"] == 32
    assert len(calibration["sha256"]) == 64
    versions = json.loads(found["versions"])
    assert versions["onnx"] == onnx.__version__
    assert set(versions) >= {"convert-onnx", "onnxruntime", "numpy"}
    assert stored_preprocess(result.model) == Preprocess(mean=(0.5,), std=(0.25,))
    assert found["target"] == "cpu"


def test_the_same_call_gives_the_same_file() -> None:
    first, second = (convert(resnet(), X, recipe="int4", settings=Settings(limit=24)).model for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    other = convert(resnet(), X, recipe="int4", settings=Settings(limit=24, seed=1)).model
    assert other.SerializeToString(deterministic=True) != first.SerializeToString(deterministic=True)


def test_the_caller_s_model_and_data_stay_as_they_were() -> None:
    proto, data = resnet(), X.copy()
    before = proto.SerializeToString(deterministic=True)
    result = convert(proto, data, recipe="int4")
    assert proto.SerializeToString(deterministic=True) == before
    np.testing.assert_array_equal(data, X)
    np.testing.assert_array_equal(run(result.reference, UNSEEN)[0], run(proto, UNSEEN)[0])


def test_a_tiny_memory_budget_gives_the_same_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.calibration.statistics.batch_size", lambda *_: 8)  # others change the last digits
    monkeypatch.setattr("converter.calibration.paired_run.batch_size", lambda *_: 16)
    proto, data = branches(side=32), {"a": images(20, 3, 32, 32), "b": images(20, 4)}
    plain, spilled = (
        convert(proto, data, recipe="int4", settings=Settings(memory_budget=budget)) for budget in (1 << 30, 1)
    )
    assert any("kept in files" in note for report in spilled.passes for note in report.notes)
    assert plain.model.SerializeToString(deterministic=True) == spilled.model.SerializeToString(deterministic=True)


def test_metrics_only_with_evaluation_data() -> None:
    labels = run(resnet(), UNSEEN)[0].argmax(1)
    result = convert(resnet(), X, recipe="int8", evaluation=(UNSEEN, labels))
    assert convert(resnet(), X, recipe="int8").metrics is None
    assert result.metrics is not None
    original, quantized = result.metrics.models
    assert (original.top1, quantized.images) == (1.0, len(UNSEEN))
    assert quantized.sqnr_db == pytest.approx(decibels(result, UNSEEN), abs=0.5)
    assert quantized.top1 is not None
    assert quantized.top1 > 0.9  # of 32 images two may lie on the fence
    json.dumps(conversion_facts(result))


def test_a_dataset_is_taken_as_it_is() -> None:
    data = load_data(X, input_specs(resnet()))
    assert decibels(convert(resnet(), data, recipe="int8"), UNSEEN) == decibels(
        convert(resnet(), X, recipe="int8"), UNSEEN
    )


# ------------------------------------------------------------------- recipe fields


def test_exclude() -> None:
    recipe = Recipe("r", "", (*PREPARE, Exclude(("depthwise", "fc")), ActivationRanges(), Gptq(bits=4)))
    result = convert(resnet(), X, recipe=recipe)
    assert bits(result) == dict.fromkeys(LAYERS, 4) | {"depthwise": 32, "fc": 32}
    reasons = {layer.name: layer.reason for layer in result.layers if layer.reason}
    assert reasons == dict.fromkeys(("depthwise", "fc"), "excluded by the recipe")
    assert json.loads(metadata(result)["convert_onnx.float_reasons"]) == reasons
    weights = {tensor.name: tensor for tensor in result.model.graph.initializer}
    original = {tensor.name: tensor for tensor in resnet().graph.initializer}
    for name in ("depthwise.weight", "fc.weight"):
        assert weights[name].raw_data == original[name].raw_data


def test_an_excluded_layer_that_does_not_exist() -> None:
    recipe = Recipe("r", "", (*PREPARE, Exclude(("stme",)), Rtn(bits=8)))
    with pytest.raises(QuantizationError, match=r"no layer is named 'stme'; did you mean 'stem'\?"):
        convert(resnet(), recipe=recipe)


def test_first_and_last_layer_at_eight_bits() -> None:
    recipe = Recipe("r", "", (*PREPARE, ActivationRanges(), Gptq(bits=3, first_last_bits=8)))
    result = convert(resnet(), X, recipe=recipe)
    assert bits(result) == dict.fromkeys(LAYERS, 3) | {"stem": 8, "fc": 8}
    assert {layer.name: layer.stored_bits for layer in result.layers}["stem"] == 8
    assert decibels(result, UNSEEN) > decibels(
        convert(resnet(), X, recipe=replace(recipe, passes=(*recipe.passes[:-1], Gptq(bits=3)))), UNSEEN
    )


def test_bits_layer_by_layer_go_before_everything_else() -> None:
    layer_bits = {"fc": 5, "depthwise": 8, "last": 2}
    recipe = Recipe("r", "", (*PREPARE, ActivationRanges(), Gptq(bits=4, first_last_bits=8, layer_bits=layer_bits)))
    result = convert(resnet(), X, recipe=recipe)
    assert bits(result) == dict.fromkeys(LAYERS, 4) | {"stem": 8} | layer_bits
    assert json.loads(metadata(result)["convert_onnx.layer_bits"]) == bits(result)


def test_bits_for_a_layer_that_does_not_exist() -> None:
    recipe = Recipe("r", "", (*PREPARE, Rtn(bits=4, layer_bits={"conv9": 8})))
    with pytest.raises(QuantizationError, match="layer_bits: no layer is named 'conv9'; the nearest are "):
        convert(resnet(), recipe=recipe)


def test_a_recipe_that_looks_at_no_data_needs_none() -> None:
    result = convert(resnet(), recipe=Recipe("r", "", (*PREPARE, Rtn(bits=8))))
    assert bits(result) == dict.fromkeys(LAYERS, 8)
    assert json.loads(metadata(result)["convert_onnx.calibration"]) is None
    assert decibels(result, UNSEEN) > 35


def test_the_seed_reaches_the_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.calibration.layer_inputs.positions_per_image", lambda *_: 5)
    first, again, other = (
        convert(resnet(), X, recipe="int4-weight-only", settings=Settings(seed=seed)).model for seed in (1, 1, 2)
    )
    assert first.graph == again.graph
    assert first.graph != other.graph


# ------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", [name for name in SOLVING if RECIPES[name].needs_calibration])
def test_a_recipe_without_data_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"recipe '{name}' needs calibration data; use `calibration=`"):
        convert(resnet(), recipe=name)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"recipe": "int5"}, RecipeError, "no recipe is named 'int5'"),
        ({"target": "toaster"}, TargetError, "no target is named 'toaster'; there are: cpu"),
        ({"calibration": images(4, 3, 9, 9)}, DataError, "takes|model"),
        ({"calibration": images(4, 3, 12, 12) * np.float32(np.nan)}, DataError, "holds NaN or Inf"),
        ({"calibration": np.zeros((0, 3, 12, 12), np.float32)}, DataError, "samples"),
    ],
)
def test_refusals(arguments: dict[str, Any], kind: type[ConvertError], message: str) -> None:
    with pytest.raises(kind, match=message):
        convert(resnet(), **{"calibration": X, **arguments})


@pytest.mark.parametrize(
    ("layer_pass", "message"),
    [
        (Gptq(bits=4, block_size=16), "no integer kernel reads scales of blocks"),
        (Rtn(bits=4, symmetric=False), "need symmetric"),
    ],
)
def test_what_integer_kernels_cannot_read_is_refused(layer_pass: Gptq, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        convert(resnet(), X, recipe=Recipe("r", "", (*PREPARE, ActivationRanges(), layer_pass)))


# ------------------------------------------------------------------- what a pass is for


@pytest.mark.parametrize("ranges", [(ActivationRanges(),), ()], ids=["integer", "weight_only"])
@pytest.mark.parametrize("bits", [3, 4])
def test_gptq_beats_rounding_to_the_nearest(bits: int, ranges: tuple[ActivationRanges, ...]) -> None:
    """On the exported file's output for unseen images; rounding, even with the best scale, sees no data."""
    nearest, best = (
        decibels(convert(resnet(), X, recipe=Recipe("r", "", (*PREPARE, *ranges, step))), UNSEEN)
        for step in (Rtn(bits=bits), Gptq(bits=bits))
    )
    assert best > nearest + 3


def test_reported_errors_are_of_the_layers() -> None:
    result = convert(resnet(), X, recipe="int4")
    for layer in result.layers:
        assert layer.before_db is not None
        assert layer.after_db is not None
        assert 5 < layer.before_db < layer.after_db < 60


def test_a_batchnorm_is_folded_before_anything_is_rounded() -> None:
    constants: dict[str, NDArray[Any]] = {
        "scale": np.abs(random(6)) + 0.1,
        "shift": random(6, seed=1),
        "mean": random(6, seed=2),
        "variance": np.abs(random(6, seed=3)) + 0.1,
    }
    nodes = [
        conv(constants, "conv", "x", "a", (6, 3, 3, 3)),
        helper.make_node("BatchNormalization", ["a", "scale", "shift", "mean", "variance"], ["b"], "bn"),
        helper.make_node("Relu", ["b"], ["y"], "relu"),
    ]
    proto = network(nodes, constants, {"x": ["N", 3, 12, 12]}, {"y": ["N", 6, 12, 12]})
    result = convert(proto, X, recipe="int8")
    assert not {"BatchNormalization", "Relu"} & {node.op_type for node in result.model.graph.node}
    assert decibels(result, UNSEEN) > 35


def test_find_recipe_is_public() -> None:
    assert find_recipe("int4") == RECIPES["int4"]
