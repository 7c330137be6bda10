"""Files that version 0.1 wrote are still read: a quantized model and a recipe, with the names they used then.

`files/written_by_0_1.onnx` has three layers at 4 bits, the first one excluded. Its recipe calls the block size `block`,
and its metadata have the reasons of float layers under `convert_onnx.kept`.
"""

import json
from pathlib import Path

import numpy as np
import onnx

import converter
from converter.recipes.builtin import find_recipe
from passes.numerics.error import sqnr_db
from tests.support.networks import images, run

FILES = Path(__file__).parents[1] / "files"
FILE, RECIPE = FILES / "written_by_0_1.onnx", FILES / "recipe_of_0_1.toml"
X = images(32, 3, 8, 8)


def test_the_file_has_the_old_names() -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(FILE).metadata_props}
    assert json.loads(metadata["convert_onnx.kept"]) == {"a": "excluded by the recipe"}
    assert "\nblock = 8\n" in metadata["convert_onnx.recipe"]


def test_inspect_shows_why_a_layer_stayed_in_float() -> None:
    layers = {layer.name: layer for layer in converter.inspect(FILE).layers}
    assert layers["a"].reason == "excluded by the recipe"
    assert [layers[name].weight_bits for name in ("a", "b", "f")] == [32, 4, 4]


def test_its_recipe_is_that_of_the_toml_file() -> None:
    stored, written = find_recipe(FILE), find_recipe(RECIPE)
    assert stored.passes == written.passes
    assert stored.solver is not None
    assert stored.solver.block_size == 8


def test_a_model_is_converted_as_the_file_was() -> None:
    model = converter.open_model(FILE)
    result = converter.convert(model, X, recipe=FILE)
    assert {layer.name: layer.bits for layer in result.layers} == {"a": 32, "b": 4, "f": 4}


def test_keep_reads_its_codes() -> None:
    kept = converter.convert(FILE, recipe="keep")
    assert {layer.name: layer.bits for layer in kept.layers} == {"a": 32, "b": 4, "f": 4}
    expected, found = run(onnx.load(FILE), X)[0], run(kept.model, X)[0]
    assert np.array_equal(expected, found) or sqnr_db(expected, found) > 60
