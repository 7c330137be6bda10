"""Choose which weights and activations to leave in float, so that every output reaches a SQNR.

The error powers of single roundings add up. Their sum is scaled to the error that the whole file has. Then what costs
most at the outputs that miss the aim, for the time that it takes in float, is left in float, until the expected error
of every output is low enough.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from converter.error_sources.measure import ErrorSource
from passes.numerics.error import decibel

__all__ = ["choose", "expected_db"]

_MARGIN = 0.9  # share of the allowed error power that the choice may be expected to reach
_CHEAP = 0.01  # share of the network's time; what takes less counts as much


def expected_db(sources: Iterable[ErrorSource]) -> dict[str, float]:
    """Return the SQNR in dB that every output is expected to have if these sources are rounded together."""
    power: dict[str, float] = {}
    for source in sources:
        for output in source.sqnr_db:
            power[output] = power.get(output, 0.0) + source.noise(output)
    return {output: decibel(1.0, noise) for output, noise in power.items()}


def choose(
    sources: Sequence[ErrorSource],
    measured: Mapping[str, float],
    aim_db: float,
    exact: Collection[ErrorSource],
    seconds: Mapping[str, float],
) -> list[ErrorSource]:
    """Return the sources to make exact, in addition to those that are.

    Args:
        sources: All sources of error.
        measured: SQNR in dB of the file, by output.
        aim_db: SQNR that every output needs.
        exact: Sources that are exact in the file.
        seconds: Time of every node in float, by name.
    """
    breaking = [each for each in sources if each not in exact and math.isinf(max(map(each.noise, measured), default=0))]
    if breaking:  # NaN or Inf where float has numbers
        return breaking
    total = sum(seconds.values()) or 1.0
    allowed = _MARGIN * 10 ** (-aim_db / 10)
    moved = {node for source in exact for node in source.nodes}
    left = _rounded([source for source in sources if source not in exact], moved)
    scale = {}
    for output, sqnr in measured.items():
        if sqnr == -math.inf:  # no single source breaks it, so there is nothing to add up
            continue
        alone = sum(source.noise(output) for source in left)
        scale[output] = 10 ** (-sqnr / 10) / alone if alone > 0 else 0.0

    def excess() -> dict[str, float]:
        """Expected error power of the outputs that have too much, relative to what is allowed."""
        powers = {output: factor * sum(source.noise(output) for source in left) for output, factor in scale.items()}
        return {output: power / allowed for output, power in powers.items() if power > allowed}

    def worth(source: ErrorSource) -> float:
        gain = sum(scale[output] * source.noise(output) for output in missing)
        cost = sum(seconds.get(node, 0.0) for node in source.nodes if node not in moved) / total
        return gain / (_CHEAP + cost)

    chosen: list[ErrorSource] = []
    while left and (missing := excess()):
        best = max(left, key=worth)
        if worth(best) <= 0:
            break
        chosen.append(best)
        moved |= set(best.nodes)
        left = _rounded([source for source in left if source is not best], moved)
    return chosen


def _rounded(sources: Sequence[ErrorSource], floats: Collection[str]) -> list[ErrorSource]:
    """Return the sources that are still rounded if some nodes run in float. Weights are."""
    return [source for source in sources if source.kind == "weight" or not set(source.nodes) <= set(floats)]
