"""Read recipes from TOML and write them to TOML."""

import dataclasses
import tomllib
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tomli_w

from converter.data.preprocess import Preprocess
from converter.qdq.weights import STORAGES
from converter.recipes.recipe import Recipe
from converter.recipes.registry import GROUP, find_pass, pass_names
from converter.recipes.toml_fields import build, nearest
from passes.base import Pass
from passes.errors import RecipeError

__all__ = ["dump_recipe", "parse_recipe", "recipe_content", "recipe_values"]

_RENAMED = MappingProxyType({"block": "block_size"})  # old names of fields, in files of version 0.1


def parse_recipe(text: str, source: str) -> Recipe:
    """Read a recipe from TOML text.

    Args:
        text: The text.
        source: Name of the source, for errors.

    Raises:
        RecipeError: The text is not TOML, or a pass or field is unknown or wrong.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{source} is not TOML: {error}") from error
    steps = content.pop("passes", None)
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps) or not steps:
        raise RecipeError(f"{source} has no [[passes]]; a recipe has a [[passes]] table for each pass")
    preprocess = content.pop("preprocess", {})
    content.setdefault("name", Path(source).stem)
    content.setdefault("description", "")
    if content.get("storage", "cast") not in STORAGES:
        raise RecipeError(f"{source}: storage {content['storage']!r} is not one of {', '.join(STORAGES)}")
    content["passes"] = tuple(_pass(step, f"{source}, pass {index + 1}") for index, step in enumerate(steps))
    content["preprocess"] = build(Preprocess, preprocess, f"{source}, preprocess")
    recipe: Recipe = build(Recipe, content, source)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as TOML with all fields that are set. `parse_recipe` reads it back as an equal recipe."""
    return tomli_w.dumps(recipe_content(recipe))


def recipe_content(recipe: Recipe) -> dict[str, Any]:
    """Return the content of a recipe's TOML: every field that is set."""
    content: dict[str, Any] = {
        field.name: getattr(recipe, field.name)
        for field in dataclasses.fields(recipe)
        if field.name not in {"passes", "preprocess"}
    }
    preprocess = _plain(recipe.preprocess)
    if preprocess:
        content["preprocess"] = preprocess
    content["passes"] = [{"pass": step.name, **_plain(step)} for step in recipe.passes]
    return content


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """Return all fields of the recipe, its passes and its preprocessing as JSON values, set or not."""
    values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe) if field.name != "passes"}
    values["preprocess"] = recipe.preprocess.values()
    values["passes"] = [{"pass": step.name, **dataclasses.asdict(step)} for step in recipe.passes]
    return values


def _plain(instance: Any) -> dict[str, Any]:
    values = {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    return {key: value for key, value in plain.items() if value is not None and value != {}}


def _pass(step: dict[str, Any], where: str) -> Pass:
    fields = dict(step)
    name = fields.pop("pass", None)
    kind = find_pass(name) if isinstance(name, str) else None
    if kind is None:
        raise RecipeError(
            f"{where}: no pass is named {name!r}; {nearest(str(name), pass_names())}; install the package that has it, "
            f"with an entry point in {GROUP}"
        )
    known = {field.name for field in dataclasses.fields(kind)}
    for old, new in _RENAMED.items():
        if old in fields and old not in known:
            if new in fields:
                raise RecipeError(f"{where} ({name}): {old} is the old name of {new}; give one of them")
            fields[new] = fields.pop(old)
    built: Pass = build(kind, fields, f"{where} ({name})")
    return built
