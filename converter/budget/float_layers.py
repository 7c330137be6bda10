"""Layers with float activations, for a latency limit that `int8` exceeds.

Fewer bits do not run faster, but float activations may. `converter.speed.search` measures which layers run faster with
them. An attempt is made with these layers, and every later rung has them too. No attempt is made if the measured gain
is too small for the limit.
"""

import dataclasses

import numpy as np

from converter.budget.candidate_builder import CandidateBuilder, Trial
from converter.cache.folder import Cache
from converter.recipes.recipe import Recipe
from converter.speed.search import Speed, find_slow_layers, leaving

__all__ = ["RUNG", "faster_in_float"]

RUNG = "int8-float"
_SCATTER = 1.05  # ratio of two measurements of one latency; an expected latency above the limit by less is tried


def faster_in_float(builder: CandidateBuilder, eight: Trial, base: Recipe) -> tuple[Trial, Recipe]:
    """Make an attempt with float activations if `int8` exceeds the latency limit and enough can be gained.

    Args:
        builder: Makes and judges the attempt.
        eight: The attempt `int8`.
        base: Recipe of the rungs after it.

    Returns:
        The attempt to continue from, and the recipe of later rungs. Both are unchanged if there is nothing to gain.
    """
    latency, limit = eight.attempt.latency_ms, builder.budget.max_latency
    if latency is None or limit is None or latency <= limit:
        return eight, base
    speed = _measured(builder, eight.recipe)
    if not speed.layers or latency / speed.gain > limit * _SCATTER:
        return eight, base
    trial = builder.attempt(RUNG, dataclasses.replace(leaving(eight.recipe, speed), name=RUNG))
    builder.progress(f"auto: {RUNG}", 1, 1)
    return trial, leaving(base, speed)


def _measured(builder: CandidateBuilder, recipe: Recipe) -> Speed:
    """Return the measured speed. A resumed search reads it from the cache, so that its choice of layers is the same."""
    cache = builder.cache_of(recipe)
    cached = cache.load("speed")
    if cached is not None:
        reference, integer, chosen, gain = (float(value) for value in cached["times"])
        quartiles = [(float(low), float(high)) for low, high in cached["quartiles"]]
        return Speed(reference, integer, chosen, gain, tuple(map(str, cached["layers"])), (), *quartiles)
    sample = next(builder.fit.batches(1))
    speed = find_slow_layers(builder.source, recipe, builder.target, sample, builder.progress)
    _store(cache, speed)
    return speed


def _store(cache: Cache, speed: Speed) -> None:
    """Store the speed without its trials, which do not affect the recipe."""
    times = [speed.float_ms, speed.integer_ms, speed.chosen_ms, speed.gain]
    quartiles = [speed.integer_quartiles, speed.chosen_quartiles, speed.gain_quartiles]
    cache.store(
        "speed", {"times": np.array(times), "layers": np.array(speed.layers, str), "quartiles": np.array(quartiles)}
    )
