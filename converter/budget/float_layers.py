"""Layers in float for speed, where `int8` misses a latency: fewer bits run no faster, float activations may.

`converter.speed.search` times which layers those are. What it finds is tried as a file, and every rung after it has
them too; where the gain it measured promises less than the latency wants, no file is made.
"""

import dataclasses

import numpy as np

from converter.budget.cache import Cache
from converter.budget.candidate_builder import CandidateBuilder, Trial
from converter.recipes.recipe import Recipe
from converter.speed.search import Speed, find_slow_layers, leaving

__all__ = ["RUNG", "faster_in_float"]

RUNG = "int8-float"
_SCATTER = 1.05  # of a latency between two measurements: what promises to miss it by less is tried


def faster_in_float(builder: CandidateBuilder, eight: Trial, base: Recipe) -> tuple[Trial, Recipe]:
    """The attempt to go on from, and the recipe of later rungs; both as they were unless there is something to gain.

    Args:
        builder: makes and judges the further attempt.
        eight: the attempt `int8`.
        base: recipe of the rungs after it.
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
    """What was timed; a search that goes on has the layers of the run before, since another timing may find others."""
    cache = builder.cache_of(recipe)
    kept = cache.load("speed")
    if kept is not None:
        exact, integer, chosen, gain = (float(value) for value in kept["times"])
        ways = [(float(low), float(high)) for low, high in kept["quartiles"]]
        return Speed(exact, integer, chosen, gain, tuple(map(str, kept["layers"])), (), ways[0], ways[1], ways[2])
    feeds = next(builder.fit.batches(1)).feeds
    speed = find_slow_layers(builder.source, recipe, builder.target, feeds, builder.progress)
    _keep(cache, speed)
    return speed


def _keep(cache: Cache, speed: Speed) -> None:
    """All but what was tried, which says nothing of the recipe."""
    times = [speed.float_ms, speed.integer_ms, speed.chosen_ms, speed.gain]
    quartiles = [speed.integer_quartiles, speed.chosen_quartiles, speed.gain_quartiles]
    cache.store(
        "speed", {"times": np.array(times), "layers": np.array(speed.layers, str), "quartiles": np.array(quartiles)}
    )
