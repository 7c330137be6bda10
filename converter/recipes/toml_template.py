"""Recipe templates in TOML. Fields that are not set are comments with their descriptions."""

import dataclasses
import inspect
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import tomli_w

from converter.recipes.recipe import Recipe
from converter.recipes.toml import recipe_content

__all__ = ["meanings", "spell_out"]

_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n     +.*)*)", re.MULTILINE)
_EXAMPLES: Mapping[str, str] = MappingProxyType(
    {
        "block_size": "32",
        "first_last_bits": "8",
        "recurrent_bits": "8",
        "layer_bits": '{ "conv1" = 8 }',
        "layer_sparsity": '{ "conv1" = 0.25 }',
        "sparsity": "0.5",
        "mean": "[0.485, 0.456, 0.406]",
        "std": "[0.229, 0.224, 0.225]",
        "resize": "256",
        "crop": "224",
        "letterbox": "640",
        "pad": "114",
        "channels": '"bgr"',
        "scale": "255",
        "interpolation": '"bicubic"',
    }
)


def spell_out(recipe: Recipe) -> str:
    """Return `dump_recipe` with a comment for every unset field. `parse_recipe` reads it back as an equal recipe."""
    content = recipe_content(recipe)
    tables, preprocess = content.pop("passes"), content.pop("preprocess", {})
    title = "[preprocess]\n" if preprocess else "# [preprocess]\n"
    parts = [tomli_w.dumps(content), title + tomli_w.dumps(preprocess) + _unset(recipe.preprocess)]
    for step, fields in zip(recipe.passes, tables, strict=True):
        below = {key: value for key, value in fields.items() if isinstance(value, dict)}
        plain = {key: value for key, value in fields.items() if key not in below}
        subtables = [f"\n[passes.{key}]\n{tomli_w.dumps(value)}" for key, value in below.items()]
        parts.append("".join(["[[passes]]\n", tomli_w.dumps(plain), _unset(step), *subtables]))
    return "\n".join(parts)


def meanings(kind: type) -> dict[str, str]:
    """Return the description of each field of a dataclass, from its docstring and those of its base classes."""
    descriptions: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2]
        descriptions |= {name: " ".join(meaning.split()).rstrip(".") for name, meaning in _ATTRIBUTE.findall(text)}
    return descriptions


def _unset(instance: Any) -> str:
    descriptions = meanings(type(instance))
    names = [field.name for field in dataclasses.fields(instance) if getattr(instance, field.name) in (None, {})]
    return "".join(f"# {name} = {_EXAMPLES.get(name, '...')}  # {descriptions.get(name, '')}\n" for name in names)
