"""Pruning of layers: shares and patterns, refusals and reasons, and files that say what was removed."""

import dataclasses
import json
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from converter import Recipe, convert, find_recipe, inspect
from converter.qdq.pruned import pruned_patterns, shares_of_zeros
from converter.recipes.toml import dump_recipe, parse_recipe
from passes.activations.activation_ranges import ActivationRanges
from passes.base import Solution
from passes.errors import QuantizationError, RecipeError, UnknownLayerError
from passes.graph.check import check
from passes.graph.exclude import Exclude
from passes.graph.normalise.normalise import Normalise
from passes.ir.model import Model, Quantized
from passes.numerics.error import sqnr_db
from passes.weights.bias_correction import BiasCorrection
from passes.weights.gptq import Gptq
from passes.weights.prune import Prune
from tests.support.integer_rules import RULES
from tests.support.networks import images, resnet, run
from tests.support.solved_layer import LAYERS, moments_of, one_layer, problem_of, smooth

X, UNSEEN = images(48, 3, 12, 12), images(48, 3, 12, 12, seed=9)
ALL = Prune(fewest_inputs=0)
WIDE = ("Conv", (8, 8, 3, 3), 8, {"pads": [1, 1, 1, 1]}, (6, 8, 9, 9))


def solved(case: Any, step: Gptq, bits: int = 4, block_size: int | None = None) -> tuple[Model, Solution]:
    model = Model(gs.import_onnx(one_layer(case, bias=True)), RULES)
    problem = problem_of(model, moments_of(model.layers()["layer"], smooth(*case[4])), bits, block_size)
    return model, step.solve(problem)


@pytest.mark.parametrize("method", ["sweep", "exact", "magnitude"])
@pytest.mark.parametrize("case", LAYERS)
def test_layers_of_every_kind(case: str, method: Any) -> None:
    _, solution = solved(LAYERS[case], dataclasses.replace(ALL, method=method, sparsity=0.4))
    assert solution.pruned is not None
    assert np.count_nonzero(~solution.pruned.kept) == round(0.4 * solution.pruned.kept.size)
    assert not solution.grid.values(solution.codes)[~solution.pruned.kept].any()
    assert solution.note == "40 % pruned"


def test_two_levels_and_zero_points() -> None:
    for step in (Prune(bits=4, block_size=8, two_level=True), Prune(bits=3, symmetric=False)):
        _, solution = solved(LAYERS["gemm"], dataclasses.replace(step, fewest_inputs=1), step.bits, step.block_size)
        assert solution.pruned is not None
        assert np.count_nonzero(~solution.pruned.kept) == solution.pruned.kept.size // 2
        assert not solution.grid.values(solution.codes)[~solution.pruned.kept].any()
        assert step.symmetric or solution.grid.zero_point.any()


def test_a_share_of_zero_is_gptq() -> None:
    _, ours = solved(LAYERS["conv"], dataclasses.replace(ALL, sparsity=0.0))
    _, other = solved(LAYERS["conv"], Gptq())
    np.testing.assert_array_equal(ours.codes, other.codes)
    np.testing.assert_array_equal(ours.bias, other.bias)
    assert ours.pruned is None
    assert ours.note == "not pruned: its share is 0"


def test_two_of_four_input_channels_at_every_place_of_the_kernel() -> None:
    _, solution = solved(WIDE, Prune(bits=8, pattern="2:4"), 8)
    weight = solution.grid.values(solution.codes).reshape(8, 2, 4, 3, 3)  # outputs, groups, channels, kernel
    assert ((weight != 0).sum(axis=2) <= 2).all()
    assert (weight != 0).mean() > 0.4
    assert solution.note == "2:4 pruned"


@pytest.mark.parametrize(
    ("case", "fields", "reason"),
    [
        ("conv", {"pattern": "2:4"}, "not pruned: 27 inputs are fewer than fewest_inputs 32"),
        ("conv", {"pattern": "2:4", "fewest_inputs": 0}, "not pruned: 3 input channels are no multiple of 4"),
        ("depthwise", {"pattern": "2:4", "fewest_inputs": 0}, "not pruned: 1 input channels are no multiple of 4"),
        ("depthwise", {}, "not pruned: 9 inputs are fewer than fewest_inputs 32"),
        ("gemm", {"fewest_inputs": 0, "layer_sparsity": {"layer": 0.0}}, "not pruned: its share is 0"),
    ],
)
def test_layers_that_keep_their_weights_are_gptqs_and_say_why(case: str, fields: Any, reason: str) -> None:
    _, ours = solved(LAYERS[case], Prune(**fields))
    _, other = solved(LAYERS[case], Gptq())
    np.testing.assert_array_equal(ours.codes, other.codes)
    assert ours.note == reason
    assert ours.pruned is None


def test_exact_for_small_layers_only() -> None:
    exact = dataclasses.replace(ALL, method="exact", largest_inputs=26)
    _, solution = solved(LAYERS["conv"], exact)
    assert solution.note == "50 % pruned, by sweep: 27 inputs are more than largest_inputs 26"
    np.testing.assert_array_equal(solution.codes, solved(LAYERS["conv"], ALL)[1].codes)
    assert solved(LAYERS["conv"], dataclasses.replace(exact, largest_inputs=27))[1].note == "50 % pruned"


def test_methods_in_order_of_their_error() -> None:
    case: Any = ("Gemm", (64, 16), 16, {}, (2000, 64))
    db = {}
    for method, make_up in (("exact", True), ("sweep", True), ("magnitude", True), ("magnitude", False)):
        step = Prune(bits=4, method=method, make_up=make_up)  # type: ignore[arg-type]
        db[method, make_up] = solved(case, step)[1].after_db or 0.0
    assert abs(db["exact", True] - db["sweep", True]) < 0.7
    assert min(db["exact", True], db["sweep", True]) > db["magnitude", True] + 1 > db["magnitude", False] + 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sparsity": 1.0}, "sparsity is a share, at least 0 and below 1, not 1"),
        ({"sparsity": -0.1}, "sparsity is a share, at least 0 and below 1, not -0.1"),
        ({"sparsity": 50.0}, "sparsity is a share, at least 0 and below 1, not 50"),
        ({"layer_sparsity": {"fc": 2.0}}, "layer_sparsity of fc is a share, at least 0 and below 1, not 2"),
        ({"pattern": "4:2"}, r'pattern must be "unstructured", or n:m with 0 < n < m'),
        ({"pattern": "1:4", "sparsity": 0.5}, "pattern 1:4 removes 0.75 of the weights, so sparsity cannot be 0.5"),
        ({"pattern": "2:4", "layer_sparsity": {"fc": 0.3}}, "so layer_sparsity of fc cannot be 0.3; give 0 to keep"),
        ({"largest_inputs": 0}, "largest_inputs must be at least 1, not 0"),
        ({"exchange": -1}, "exchange must be at least 0, not -1"),
        ({"fewest_inputs": -1}, "fewest_inputs must be at least 0, not -1"),
        ({"bits": 9}, "weight bits must be 2 to 8, not 9"),
    ],
)
def test_wrong_fields_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prune(**fields)


def test_no_data_and_unknown_layers_are_refused_before_the_work() -> None:
    with pytest.raises(QuantizationError, match="needs calibration data"):
        Prune().solve(problem_of(Model(gs.import_onnx(one_layer(LAYERS["gemm"], bias=True)), RULES), None))
    recipe = Recipe("mine", "", (Normalise(), ActivationRanges(), Prune(layer_sparsity={"block.conv9": 0.3})))
    with pytest.raises(UnknownLayerError, match=r"block\.conv9"):
        convert(resnet(), X, recipe=recipe)


def test_recipes_in_toml() -> None:
    text = '[[passes]]\npass = "prune"\nbits = 8\npattern = "2:4"\n[passes.layer_sparsity]\nfc = 0\n'
    recipe = parse_recipe(text, "f.toml")
    assert recipe.solver == Prune(bits=8, pattern="2:4", layer_sparsity={"fc": 0.0})
    assert parse_recipe(dump_recipe(recipe), "f.toml") == recipe
    with pytest.raises(RecipeError, match="method must be one of 'sweep', 'exact', 'magnitude', not 'random'"):
        parse_recipe(text.replace("pattern", 'method = "random"\npattern'), "f.toml")


def test_later_passes_cannot_fill_what_was_removed() -> None:
    model, solution = solved(LAYERS["gemm"], ALL)
    layer = model.layers()["layer"]
    filled = np.where(solution.codes == 0, 1, solution.codes).astype(np.int8)
    for codes, fine in ((solution.codes, True), (filled, False)):
        model.quantized["layer"] = Quantized(codes, solution.grid, 0.0, solution.pruned)
        model.write(layer, solution.grid.values(codes), solution.bias)
        if fine:
            check(model, "a pass")
            continue
        with pytest.raises(QuantizationError, match="after a pass: weights of layer that were removed are not zero"):
            check(model, "a pass")


@pytest.mark.parametrize("name", ["int4-pruned", "int8-2of4"])
def test_a_network_converted_with_it(name: str, tmp_path: Any) -> None:
    recipe = find_recipe(name).with_solver(fewest_inputs=32)
    result = convert(resnet(), X, recipe=dataclasses.replace(recipe, passes=(*recipe.passes, BiasCorrection())))
    reference = run(resnet(), UNSEEN)[0]
    assert sqnr_db(reference, run(result.model, UNSEEN)[0]) > 8
    reports = {layer.name: layer for layer in result.layers}
    pruned = {layer for layer, report in reports.items() if report.pattern}
    assert "stem" not in pruned
    assert {"block.conv1", "block.conv2"} <= pruned
    assert set(pruned_patterns(result.model)) == pruned
    assert set(pruned_patterns(result.model).values()) == {"2:4" if "2of4" in name else "unstructured"}
    zeros = shares_of_zeros(result.model)
    for layer in pruned:
        assert 0.5 <= zeros[layer] < 0.62
        assert zeros[layer] == pytest.approx(reports[layer].zeros, abs=1e-9)
    result.save(tmp_path / "pruned.onnx")
    inspected = {layer.name: layer.zeros for layer in inspect(tmp_path / "pruned.onnx").layers}
    assert inspected == {layer: pytest.approx(share) for layer, share in zeros.items()}


def test_keep_says_what_was_removed(tmp_path: Any) -> None:
    recipe = find_recipe("int8-2of4").with_solver(fewest_inputs=32)
    convert(resnet(), X, recipe=recipe).save(tmp_path / "pruned.onnx")
    kept = convert(tmp_path / "pruned.onnx", recipe="keep").model
    before = inspect(tmp_path / "pruned.onnx").layers
    assert pruned_patterns(kept) == {
        layer.name: "2:4" for layer in before if layer.zeros is not None and layer.zeros > 0.4
    }
    assert [layer.zeros for layer in inspect(kept).layers] == [layer.zeros for layer in before]


def test_files_without_pruned_layers_say_nothing() -> None:
    result = convert(resnet(), X, recipe="int8")
    assert not [entry for entry in result.model.metadata_props if entry.key == "convert_onnx.pruned"]
    assert shares_of_zeros(result.model) == {}
    assert {layer.zeros for layer in inspect(result.model).layers} == {None}
    entry = result.model.metadata_props.add()
    entry.key, entry.value = "convert_onnx.pruned", "not JSON"
    assert pruned_patterns(result.model) == {}
    entry.value = json.dumps(["stem"])
    assert pruned_patterns(result.model) == {}


def test_the_fast_variant_prunes_too() -> None:
    alone = dataclasses.replace(ALL, sparsity=0.3).alone()
    assert (alone.sparsity, alone.exchange, alone.beam, alone.sequential) == (0.3, 0, 1, False)


def test_an_excluded_layer_needs_no_share() -> None:
    step = Prune(bits=4, layer_sparsity={"block.conv1": 0.75})
    recipe = Recipe("mine", "", (Normalise(), Exclude(), ActivationRanges(), step))
    result = convert(resnet(), X, recipe=recipe, exclude=["block.conv1"])
    assert {layer.name for layer in result.layers if layer.reason} == {"block.conv1"}


def test_shares_by_layer() -> None:
    step = Prune(bits=4, sparsity=0.25, layer_sparsity={"block.conv1": 0.75, "block.conv2": 0.0})
    result = convert(resnet(), X, recipe=Recipe("mine", "", (Normalise(), ActivationRanges(), step)))
    notes = {layer.name: layer.note for layer in result.layers}
    assert "75 % pruned" in notes["block.conv1"]
    assert "not pruned: its share is 0" in notes["block.conv2"]
    zeros = {layer.name: layer.zeros for layer in result.layers}
    assert zeros["block.conv1"] == pytest.approx(0.75, abs=0.05)
