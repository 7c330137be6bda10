"""Overrides of a recipe by a call: excluded layers, bits of layers, preprocessing, limit and seed."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from converter.data.preprocess import Preprocess
from converter.qdq.stored_weights import Tensors
from converter.recipes.recipe import Recipe
from passes.arguments import require_names, require_type, whole
from passes.base import Pass
from passes.channels.prune_channels import PruneChannels
from passes.errors import UsageError, argument
from passes.graph.embeddings import Embeddings
from passes.graph.exclude import Exclude
from passes.ir.linear import RECURRENT_OPS
from passes.numerics.two_level import MOST_BITS

__all__ = ["with_aim", "with_bits", "with_channels", "with_layers", "with_overrides", "with_recurrent_bits"]

_TABLES_OVER_AIM = 10.0  # dB: a tenth of the error that the aim allows


def with_layers(recipe: Recipe, exclude: Sequence[str] = (), bits: Mapping[str, int] | None = None) -> Recipe:
    """Return the recipe with more layers excluded and with weight bits by layer name.

    The arguments override the recipe. A layer that the recipe excludes is quantized if ``bits`` names it. A layer to
    which the recipe gives bits stays in float if ``exclude`` names it.

    Raises:
        UsageError: A layer is in both arguments, or no grid has these bits.
    """
    require_names("exclude", exclude)
    require_type("bits", {} if bits is None else bits, Mapping, "a mapping from layers to numbers of bits")
    require_names("bits", bits or {})
    bits = {name: whole(f"bits[{name!r}]", count) for name, count in (bits or {}).items()}
    for name in exclude:
        if name in bits:
            excluded, quantized = argument(exclude=[name]), argument(bits={name: bits[name]})
            raise UsageError(f"{excluded} leaves a layer in float that {quantized} quantizes; give one of them")
    if not exclude and not bits:
        return recipe
    if bits and recipe.keeps:
        raise UsageError(f"recipe {recipe.name!r} keeps the codes of the model, so `bits=` has no effect; leave it out")
    if bits and recipe.narrows_floats:
        raise UsageError(f"recipe {recipe.name!r} quantizes nothing, so `bits=` has no effect; leave it out")
    try:
        passes = [step.with_bits(bits, exclude) for step in recipe.passes]
    except ValueError as error:
        raise UsageError(f"{argument(bits=dict(bits))}: {error}") from error
    if exclude:
        passes = _with_excluded(passes, exclude)
    return dataclasses.replace(recipe, passes=tuple(passes))


def with_aim(recipe: Recipe, min_sqnr: float | None) -> Recipe:
    """Return the recipe with embedding tables in float that would keep less than 10 dB over an aim."""
    if min_sqnr is None:
        return recipe
    passes = (
        dataclasses.replace(step, least_db=max(step.least_db, min_sqnr + _TABLES_OVER_AIM))
        if isinstance(step, Embeddings)
        else step
        for step in recipe.passes
    )
    return dataclasses.replace(recipe, passes=tuple(passes))


def with_bits(recipe: Recipe, bits: int | Mapping[str, int]) -> Recipe:
    """Return the recipe with these bits in every layer, or with the bits of each layer.

    One number of bits that is too large for two-level scales also sets one scale per channel. It does not change
    `LayerPass.recurrent_bits`.
    """
    if isinstance(bits, int):
        change: dict[str, Any] = {"bits": bits, "layer_bits": {}, "first_last_bits": None}
        if bits > MOST_BITS:
            change |= {"block_size": None, "two_level": False}
    else:
        change = {"layer_bits": dict(bits)}
    return recipe.with_solver(**change)


def with_recurrent_bits(recipe: Recipe, model: onnx.ModelProto, bits: int) -> Recipe:
    """Return the recipe with these bits in every LSTM, GRU and RNN. A model without any leaves it as it is.

    Bits that the recipe gives to layers that it names stay.
    """
    if RECURRENT_OPS.isdisjoint(node.op_type for node in Tensors.of(model.graph).nodes):
        return recipe
    return recipe.with_solver(recurrent_bits=bits)


def with_channels(recipe: Recipe, share: float | None) -> Recipe:
    """Return the recipe with a pass that removes whole channels, right after layers have their final form.

    Args:
        recipe: The recipe.
        share: Share of the file's time or products that goes. None: the recipe as it is.

    Raises:
        UsageError: The recipe keeps the codes of the model, or removes channels already.
    """
    if share is None:
        return recipe
    given = argument(prune_channels=share)
    if recipe.keeps:
        raise UsageError(f"recipe {recipe.name!r} keeps the codes of the model, so {given} has no effect; leave it out")
    if any(isinstance(step, PruneChannels) for step in recipe.passes):
        raise UsageError(f"recipe {recipe.name!r} has a prune_channels pass already; leave {given} out")
    last = max((index for index, step in enumerate(recipe.passes) if step.settles_layers), default=-1)
    step = PruneChannels(share=share, of="auto")
    passes = (*recipe.passes[: last + 1], step, *recipe.passes[last + 1 :])
    return dataclasses.replace(recipe, name=f"{recipe.name}-channels", passes=passes)


def with_overrides(
    recipe: Recipe, stored: Preprocess, preprocess: Preprocess, limit: int | None, seed: int | None
) -> Recipe:
    """Return the recipe with the overrides of a call.

    Args:
        recipe: The recipe.
        stored: Preprocessing in the model's metadata. The recipe's overrides it.
        preprocess: Preprocessing of the call. It overrides the recipe's.
        limit: Number of calibration images. None: the recipe's.
        seed: Random seed. None: the recipe's.
    """
    return dataclasses.replace(
        recipe,
        preprocess=stored.merge(recipe.preprocess).merge(preprocess),
        limit=recipe.limit if limit is None else limit,
        seed=recipe.seed if seed is None else seed,
    )


def _with_excluded(passes: Sequence[Pass], names: Sequence[str]) -> list[Pass]:
    """Add the names to the first pass that excludes layers, or to a new one where layers have their final form."""
    for index, step in enumerate(passes):
        excluding = step.with_excluded(names)
        if excluding is not None:
            return [*passes[:index], excluding, *passes[index + 1 :]]
    start = max((index + 1 for index, step in enumerate(passes) if step.settles_layers), default=0)
    return [*passes[:start], Exclude(tuple(dict.fromkeys(names))), *passes[start:]]
