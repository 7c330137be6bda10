"""Built-in recipes for tests that ask for a file's form, not for how well its passes learn."""

from dataclasses import replace

from converter import Recipe
from converter.recipes.builtin import RECIPES, find_recipe
from passes.base import Pass
from passes.weights.learned_rounding import LearnedRounding
from passes.weights.qat import Qat

__all__ = ["LEARNING", "SOLVING", "brief"]

SOLVING = [name for name, recipe in RECIPES.items() if not recipe.keeps and name not in {"a16w8", "a16w4", "fp16"}]
"""Recipes that give layers new codes, for every target. Those of 16-bit activations are for few targets."""

LEARNING = [name for name in SOLVING if find_recipe(name).learns]


def brief(name: str) -> Recipe:
    """The recipe as it is, but it learns for a few steps only."""
    recipe = find_recipe(name)
    steps: list[Pass] = []
    for step in recipe.passes:
        match step:
            case LearnedRounding():
                steps.append(replace(step, steps=2))
            case Qat():
                steps.append(replace(step, epochs=1))
            case _:
                steps.append(step)
    return replace(recipe, passes=tuple(steps))
