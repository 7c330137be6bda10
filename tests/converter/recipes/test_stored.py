"""Recipes in metadata: short where they are built in, equal when they are read back, and refused if they are not."""

import dataclasses
from types import MappingProxyType

import numpy as np
import onnx
import pytest

from converter.data.preprocess import Preprocess
from converter.pipeline.convert import convert
from converter.recipes.builtin import RECIPES, stored_recipe, text_to_store
from converter.recipes.recipe import Recipe
from converter.recipes.stored import read_stored, to_store
from converter.recipes.toml import dump_recipe
from passes.errors import RecipeError
from tests.support.models import make_model

CHANGED = dataclasses.replace(
    RECIPES["int4"],
    limit=7,
    seed=3,
    storage="packed",
    preprocess=Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2), resize=(256, 320), channels="bgr"),
)


@pytest.mark.parametrize(
    "recipe",
    [
        *RECIPES.values(),
        CHANGED,
        RECIPES["int4"].with_solver(layer_bits={"conv1": 8}),
        dataclasses.replace(RECIPES["int4"], description="mine"),
        dataclasses.replace(RECIPES["int4"], name="mine"),
    ],
    ids=[*RECIPES, "settings", "bits", "description", "name"],
)
def test_a_stored_recipe_is_read_back_as_an_equal_one(recipe: Recipe) -> None:
    assert read_stored(text_to_store(recipe, brief=True), "x", RECIPES) == recipe
    model = onnx.ModelProto()
    entry = model.metadata_props.add()
    entry.key, entry.value = "convert_onnx.recipe", text_to_store(recipe, brief=True)
    assert stored_recipe(model, "x.onnx") == recipe


def test_built_in_recipes_are_short_and_int4_is_as_long_as_int8() -> None:
    lengths = [len(text_to_store(RECIPES[name], brief=True)) for name in ("int8", "int4")]
    assert lengths[0] == lengths[1] < 50


def test_another_recipe_is_spelled_out_and_so_is_any_in_a_large_file() -> None:
    assert text_to_store(RECIPES["int4"], brief=False) == dump_recipe(RECIPES["int4"])
    changed = RECIPES["int4"].with_solver(damping=0.1)
    assert text_to_store(changed, brief=True) == dump_recipe(changed)


def test_a_recipe_that_means_something_else_in_this_version_is_refused() -> None:
    text = to_store(RECIPES["int4"], RECIPES)
    for later in (RECIPES["int4"].with_solver(damping=0.1), dataclasses.replace(RECIPES["int4"], limit=256)):
        with pytest.raises(RecipeError, match="the file: int4 has other passes or defaults in this version; install"):
            read_stored(text, "the file", MappingProxyType({"int4": later}))
    with pytest.raises(RecipeError, match="the file: this version has no recipe 'int4'; install the version"):
        read_stored(text, "the file", {})
    renamed = dataclasses.replace(RECIPES["int4"], description="other words")
    assert read_stored(text, "the file", {"int4": renamed}).passes == RECIPES["int4"].passes


@pytest.mark.parametrize("text", ["not = toml = 1", "name = 3\n", 'name = "int4"\n', 'name = "int4"\ndigest = "0"\n'])
def test_a_damaged_recipe_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="the file"):
        read_stored(text, "the file", RECIPES)


@pytest.mark.parametrize(("inputs", "spelled"), [(1023, False), (1024, True)])
def test_a_large_network_has_its_recipe_spelled_out(inputs: int, spelled: bool) -> None:
    weight = np.random.default_rng(0).normal(size=(inputs, 128)).astype(np.float32)
    nodes = [onnx.helper.make_node("Gemm", ["x", "w"], ["y"], "fc")]
    model = make_model(nodes, {"w": weight}, inputs={"x": ["n", inputs]}, outputs={"y": ["n", 128]})
    x = np.random.default_rng(1).normal(size=(4, inputs)).astype(np.float32)
    written = convert(model, x, recipe="int8").model
    text = next(entry.value for entry in written.metadata_props if entry.key == "convert_onnx.recipe")
    assert (text == dump_recipe(stored_recipe(written, "x.onnx"))) == spelled
