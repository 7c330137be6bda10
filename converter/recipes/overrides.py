"""A recipe with what a call asks for besides: layers in float or at other bits, preprocessing, images, seed."""

import dataclasses
from collections.abc import Mapping, Sequence

from converter.data.preprocess import Preprocess
from converter.recipes.recipe import Recipe
from passes.base import Pass
from passes.errors import UsageError, argument
from passes.graph.exclude import Exclude

__all__ = ["with_layers", "with_overrides"]


def with_layers(recipe: Recipe, exclude: Sequence[str] = (), bits: Mapping[str, int] | None = None) -> Recipe:
    """The recipe with ``exclude`` left in float and ``bits`` by layer name, besides what it says already.

    A layer that the recipe excludes and ``bits`` names is quantized after all, and the other way round.

    Raises:
        UsageError: a layer is in both, or has bits that no grid has.
    """
    bits = dict(bits or {})
    for name in exclude:
        if name in bits:
            excluded, quantized = argument(exclude=[name]), argument(bits={name: bits[name]})
            raise UsageError(f"{excluded} leaves in float what {quantized} quantizes; give one")
    if not exclude and not bits:
        return recipe
    if bits and recipe.keeps:
        raise UsageError(f"recipe {recipe.name!r} keeps the codes it finds, so `bits=` has no use; leave it out")
    try:
        passes = [step.with_bits(bits, exclude) for step in recipe.passes]
    except ValueError as error:
        raise UsageError(f"{argument(bits=dict(bits))}: {error}") from error
    if exclude:
        passes = _with_excluded(passes, exclude)
    return dataclasses.replace(recipe, passes=tuple(passes))


def with_overrides(
    recipe: Recipe, stored: Preprocess, preprocess: Preprocess, limit: int | None, seed: int | None
) -> Recipe:
    """The recipe with what was asked for in this call before its own; ``stored`` is the model's preprocessing."""
    return dataclasses.replace(
        recipe,
        preprocess=stored.merge(recipe.preprocess).merge(preprocess),
        limit=recipe.limit if limit is None else limit,
        seed=recipe.seed if seed is None else seed,
    )


def _with_excluded(passes: Sequence[Pass], names: Sequence[str]) -> list[Pass]:
    """The names in the first pass that excludes layers, or in a new one as soon as layers have their final form."""
    for index, step in enumerate(passes):
        excluding = step.with_excluded(names)
        if excluding is not None:
            return [*passes[:index], excluding, *passes[index + 1 :]]
    start = max((index + 1 for index, step in enumerate(passes) if step.settles_layers), default=0)
    return [*passes[:start], Exclude(tuple(dict.fromkeys(names))), *passes[start:]]
