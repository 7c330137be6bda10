"""Recipes in the metadata of a small file. In a large one they are spelled out.

A recipe with the passes of a built-in one is its name, the settings that differ, and a digest:

    name = "int4"
    limit = 128
    digest = "1c9f0a6be2d4"

Every byte counts in a small file, and `int4` must not be larger than `int8` for the length of its text. The digest is
of the whole recipe with all its fields. So a version that has other passes, fields or defaults under that name refuses
it, and never takes another recipe for it. Any other recipe is spelled out.
"""

import dataclasses
import hashlib
import tomllib
from collections.abc import Mapping
from typing import Any

import tomli_w

from converter.recipes.recipe import Recipe
from converter.recipes.toml import dump_recipe, parse_recipe, recipe_content
from passes.errors import RecipeError

__all__ = ["read_stored", "to_store"]

_DIGEST = "digest"
_DIGITS = 12


def to_store(recipe: Recipe, known: Mapping[str, Recipe]) -> str:
    """Return the text of a recipe for the metadata. `read_stored` reads it back as an equal recipe.

    Args:
        recipe: The recipe.
        known: The built-in recipes by name.
    """
    base = known.get(recipe.name)
    if base is None or (base.passes, base.description) != (recipe.passes, recipe.description):
        return dump_recipe(recipe)
    usual = recipe_content(base)
    content = {key: value for key, value in recipe_content(recipe).items() if usual.get(key) != value}
    return tomli_w.dumps({"name": recipe.name, _DIGEST: _digest(recipe), **content})


def read_stored(text: str, source: str, known: Mapping[str, Recipe]) -> Recipe:
    """Read the text of a recipe in the metadata.

    Args:
        text: The text.
        source: Name of the source, for errors.
        known: The built-in recipes by name.

    Raises:
        RecipeError: The text is no recipe, or it is the built-in recipe of another version.
    """
    try:
        content: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        content = {}
    digest, base = content.pop(_DIGEST, None), known.get(str(content.get("name")))
    if digest is None or "passes" in content:
        return parse_recipe(text, source)
    if base is None:
        raise RecipeError(
            f"{source}: this version has no recipe {content.get('name')!r}; install the version that `inspect` names, "
            "or give a recipe"
        )
    recipe = parse_recipe(tomli_w.dumps({**recipe_content(base), **content}), source)
    if _digest(recipe) != digest:
        raise RecipeError(
            f"{source}: {base.name} has other passes or defaults in this version; install the version that `inspect` "
            "names, or give a recipe"
        )
    return recipe


def _digest(recipe: Recipe) -> str:
    """Return a digest of all that decides what the recipe does."""
    text = dump_recipe(dataclasses.replace(recipe, description=""))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
