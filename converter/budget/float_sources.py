"""8-bit attempts in which the roundings that cost most stay in float, for a drop that 8 bits exceed.

What each rounding costs is measured once (`converter.error_sources`). Every attempt aims at 3 dB less error than the
one before, and leaves in float what costs most, until the drop is within the budget. Then attempts with fewer bits
leave the same in float.
"""

import dataclasses
import math
from collections.abc import Generator

from converter.budget.candidate_builder import CandidateBuilder, Trial
from converter.error_sources.choose import choose, expected_db
from converter.error_sources.measure import ErrorSource
from converter.pipeline.min_sqnr import without_rounding
from converter.recipes.recipe import Recipe

__all__ = ["RUNG", "with_float_sources"]

RUNG = "int8-exact"
_STEP_DB, _ATTEMPTS = 3.0, 4


def with_float_sources(
    builder: CandidateBuilder, eight: Trial, base: Recipe
) -> Generator[Trial, None, tuple[Trial, Recipe] | None]:
    """Yield attempts with less and less rounding, until one is within the limits of drop and latency.

    Args:
        builder: Makes and judges the attempts.
        eight: The 8-bit attempt that drops too much.
        base: Recipe of the rungs after it.

    Returns:
        The attempt that is within the limits, and the recipe of later rungs, which leave the same in float. None if no
        attempt is.
    """
    sources = builder.error_sources(eight.recipe)
    layers = (name for source in sources if source.kind == "weight" for name in source.names)
    whole = frozenset(() if builder.target.rules.weight_only else layers)
    aim = min(expected_db(sources).values(), default=math.inf)
    exact: list[ErrorSource] = []
    for attempt in range(_ATTEMPTS if math.isfinite(aim) else 0):
        reached = expected_db(source for source in sources if source not in exact)
        chosen = choose(sources, reached, aim + _STEP_DB * (attempt + 1), exact, {})
        if not chosen:
            continue
        exact += chosen
        recipe = dataclasses.replace(without_rounding(eight.recipe, exact, whole, builder.target.rules), name=RUNG)
        trial = builder.attempt(RUNG, recipe)
        yield trial
        if not builder.budget.broken(trial.attempt.drop, 0, trial.attempt.latency_ms):
            return trial, without_rounding(base, exact, whole, builder.target.rules)
    return None
