"""A recipe shown is a recipe to edit: complete, explained, and read back as it was."""

import dataclasses
import tomllib

import pytest

from converter.data.preprocess import Preprocess
from converter.recipes.builtin import RECIPES
from converter.recipes.registry import PASSES
from converter.recipes.toml import parse_recipe
from converter.recipes.toml_template import meanings, spell_out
from passes.weights.gptq import Gptq
from tests.support.command_line import run


@pytest.mark.parametrize("name", RECIPES)
def test_every_field_is_there(name: str) -> None:
    recipe, text = RECIPES[name], run("recipes", "--show", name).stdout
    assert parse_recipe(text, "f.toml") == recipe
    blocks = text.split("[[passes]]\n")
    for step, block in zip(recipe.passes, blocks[1:], strict=True):
        for field in dataclasses.fields(step):
            assert any(line.removeprefix("# ").startswith(f"{field.name} = ") for line in block.splitlines())
    for setting in ("mean", "std", "resize", "crop"):
        assert f"# {setting} = " in blocks[0]


def test_comments_become_settings_once_their_sign_is_gone() -> None:
    lines = spell_out(RECIPES["int4"]).splitlines()
    either_or = ("# letterbox", "# pad", "# channels", "# scale", "# interpolation")  # resize and crop are set here
    opened = "\n".join(line if line.startswith(either_or) else line.removeprefix("# ") for line in lines)
    recipe = parse_recipe(opened, "f.toml")
    assert recipe.preprocess == Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 256, 224)
    given = {"first_last_bits": 8, "layer_bits": {"conv1": 8}, "recurrent_bits": 8}
    assert recipe.passes[-1] == Gptq(bits=4, block_size=8, two_level=True, **given)  # type: ignore[arg-type]


def test_what_is_set_is_no_comment() -> None:
    steps = (Gptq(bits=3, layer_bits={"a.b": 8}),)
    recipe = dataclasses.replace(RECIPES["int4"], passes=steps, preprocess=Preprocess(mean=(0.5,)))
    text = spell_out(recipe)
    assert parse_recipe(text, "f.toml") == recipe
    assert "layer_bits =" not in text
    assert tomllib.loads(text)["passes"][0]["layer_bits"] == {"a.b": 8}
    assert "# std = " in text
    assert "# mean" not in text


@pytest.mark.parametrize("kind", [*PASSES.values(), Preprocess], ids=lambda kind: kind.__name__)
def test_every_field_has_a_meaning(kind: type) -> None:
    told = meanings(kind)
    for field in dataclasses.fields(kind):
        assert told.get(field.name), field.name
