"""Files whose layers use the bits of the type that stores them: their size, their error, and what they say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter import Recipe, Settings, convert
from converter.recipes.builtin import find_recipe
from converter.recipes.toml import dump_recipe, parse_recipe
from converter.recipes.toml_template import spell_out
from models.zoo import ZOO, feeds_of
from passes.activations.activation_ranges import ActivationRanges
from passes.base import LayerPass
from passes.errors import RecipeError
from passes.graph.fold_batchnorm import FoldBatchnorm
from passes.graph.normalise.normalise import Normalise
from passes.weights.gpfq import Gpfq
from passes.weights.gptq import Gptq
from passes.weights.learned_rounding import LearnedRounding
from passes.weights.obq import Obq
from passes.weights.qronos import Qronos
from passes.weights.rtn import Rtn
from tests.support.networks import decibels, images, resnet, wide

X, UNSEEN = images(48, 3, 12, 12), images(48, 3, 12, 12, seed=9)
QUICK = ("conv depthwise", "gemm", "attention", "shared weight")
GRAPHS = tuple(dict.fromkeys((*QUICK, *list(ZOO)[::4])))  # all of them take two minutes
NO_TIMING = Settings(timing=False)


def bits(result: Any) -> dict[str, int]:
    return {layer.name: layer.bits for layer in result.layers}


def graph_bytes(result: Any) -> int:
    return len(result.model.graph.SerializeToString())


def pair(model: Any, data: Any, recipe: Recipe, settings: Settings = NO_TIMING) -> list[Any]:
    """The file without and with the bits of the stored types."""
    return [
        convert(model, data, recipe=recipe.with_solver(stored_bits=stored), settings=settings)
        for stored in (False, True)
    ]


@pytest.mark.parametrize("solver", [Rtn, Gptq, Gpfq, Qronos, Obq])
def test_every_solver_gains_and_no_byte_is_added(solver: type[LayerPass]) -> None:
    """3 bits in INT4: a bit is worth 6 dB, and half of that is a field that does nothing."""
    recipe = Recipe("r", "", (Normalise(), FoldBatchnorm(), ActivationRanges(), solver(bits=3)))
    before, after = pair(resnet(), X, recipe)
    assert set(bits(before).values()) == {3}
    small = {"silu.conv": 7, "depthwise": 7, "fc": 7}
    assert bits(after) == {"stem": 4, "block.conv1": 4, "block.conv2": 4, "last": 4} | small
    assert [layer.stored_bits for layer in after.layers] == [layer.stored_bits for layer in before.layers]
    assert graph_bytes(after) <= graph_bytes(before)
    assert decibels(after, UNSEEN) > decibels(before, UNSEEN) + 3
    (report,) = [report for report in after.passes if report.name == solver.name]
    assert "7 of 7 layers use all bits of the type that stores them: 4 bits in 4, 7 bits in 3" in report.notes
    assert report.changed["depthwise"].what.startswith("7 bits per channel")
    assert '"depthwise": 7' in next(each.value for each in after.model.metadata_props if "layer_bits" in each.key)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in GRAPHS]
)
def test_no_graph_of_the_zoo_grows(name: str) -> None:
    before, after = pair(ZOO[name](), feeds_of(ZOO[name](), 2), find_recipe("int4"))
    assert graph_bytes(after) <= graph_bytes(before)
    more = bits(after)
    assert all(more[layer] >= each for layer, each in bits(before).items())


def test_layers_that_a_call_names_keep_their_bits() -> None:
    recipe = find_recipe("int4").with_solver(bits=3, stored_bits=True)
    found = bits(convert(wide(), X, recipe=recipe, bits={"op:Gemm": 3, "stem": 2}, settings=NO_TIMING))
    assert (found["fc"], found["stem"], found["large"]) == (3, 2, 4)


def test_learning_keeps_the_bits() -> None:
    pytest.importorskip("torch")
    recipe = find_recipe("int4").with_solver(bits=2, stored_bits=True)
    solved = convert(wide(), X, recipe=recipe, settings=NO_TIMING)
    learning = LearnedRounding(method="soft", steps=2)
    learned = convert(wide(), X, recipe=recipe.with_pass(learning), settings=NO_TIMING)
    assert bits(learned) == bits(solved)
    assert {2, 7} <= set(bits(solved).values())


def test_a_kept_layer_is_one_of_the_same_bits(tmp_path: Path) -> None:
    settings = Settings(timing=False, cache=tmp_path)
    recipe = find_recipe("int4").with_solver(bits=3)
    first, second = pair(wide(), X, recipe, settings), pair(wide(), X, recipe, settings)
    for fresh, kept in zip(first, second, strict=True):
        assert bits(fresh) == bits(kept)
        assert fresh.model.graph.SerializeToString() == kept.model.graph.SerializeToString()
    assert bits(first[0]) != bits(first[1])


def test_a_target_without_small_types_uses_all_of_int8() -> None:
    recipe = find_recipe("int4").with_solver(stored_bits=True)
    result = convert(wide(), X, recipe=recipe, target="openvino-npu", settings=NO_TIMING)
    assert {(layer.bits, layer.stored_bits) for layer in result.layers} <= {(4, 4), (7, 8), (8, 8)}


def test_the_field_in_a_recipe_file() -> None:
    recipe = parse_recipe('[[passes]]\npass = "gptq"\nbits = 3\nstored_bits = true', "f.toml")
    assert recipe.passes == (Gptq(bits=3, stored_bits=True),)
    assert parse_recipe(dump_recipe(recipe), "f.toml") == recipe
    assert "stored_bits = false" in spell_out(find_recipe("int4"))
    with pytest.raises(RecipeError, match=r"f\.toml, pass 1 \(gptq\): stored_bits cannot be 4"):
        parse_recipe('[[passes]]\npass = "gptq"\nstored_bits = 4', "f.toml")


def test_the_errors_are_those_of_the_codes() -> None:
    """The SQNR of every layer rises by about 6 dB for each bit."""
    recipe = Recipe("r", "", (Normalise(), Rtn(bits=3)))
    before, after = pair(wide(), None, recipe)
    gains = [new.after_db - old.after_db for old, new in zip(before.layers, after.layers, strict=True)]
    assert np.min(gains) > 4
