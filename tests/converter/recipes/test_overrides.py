"""Overrides of a recipe: bits of LSTM, GRU and RNN in a search."""

import onnx
import pytest

from converter.recipes.builtin import RECIPES
from converter.recipes.overrides import with_bits, with_recurrent_bits
from converter.recipes.recipe import Recipe
from converter.targets.catalog import find_target
from passes.ir.model import Model
from passes.ir.onnx_graph import import_graph
from tests.support.networks import wide
from tests.support.recurrent_layers import stacked


def bits_of(recipe: Recipe, model: onnx.ModelProto) -> dict[str, int]:
    assert recipe.solver is not None
    return recipe.solver.bits_of_recurrent(Model(import_graph(model), find_target("cpu").rules))


@pytest.mark.parametrize("name", ["int8", "int4", "int4-weight-only-rtn"])
def test_recurrent_bits_do_not_follow_those_of_other_layers(name: str) -> None:
    model = stacked("GRU", 2)
    recipe = with_recurrent_bits(RECIPES[name], model, 8)
    for changed in (recipe, with_bits(recipe, 3), with_bits(recipe, {"head": 2})):
        assert bits_of(changed, model) == {"rnn0": 8, "rnn1": 8}
        assert changed.takes_recurrent


@pytest.mark.parametrize(
    ("layer_bits", "expected"),
    [
        ({"op:LSTM": 5}, {"rnn0": 5, "rnn1": 5}),
        ({"rnn1": 4}, {"rnn0": 8, "rnn1": 4}),
        ({"rnn?": 6, "rnn0": 3}, {"rnn0": 3, "rnn1": 6}),
        ({"head": 4}, {"rnn0": 8, "rnn1": 8}),
    ],
)
def test_bits_that_the_recipe_selects_itself_stay(layer_bits: dict[str, int], expected: dict[str, int]) -> None:
    model = stacked("LSTM", 2)
    recipe = RECIPES["int8"].with_solver(layer_bits=layer_bits)
    assert bits_of(with_recurrent_bits(recipe, model, 8), model) == expected


def test_a_recipe_stays_as_it_is_where_it_has_no_use_for_them() -> None:
    assert with_recurrent_bits(RECIPES["int8"], wide(), 8) is RECIPES["int8"]
    assert with_recurrent_bits(RECIPES["keep"], stacked("RNN"), 8) == RECIPES["keep"]
