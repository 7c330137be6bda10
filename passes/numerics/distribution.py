"""How the weights of a layer lie before and after rounding, counted in bins that both share."""

from dataclasses import dataclass

import numpy as np

from passes.numerics.grid import Codes, Floats, Grid, code_range

__all__ = ["BINS", "Distribution", "distribution"]

BINS = 101  # odd, so that zero lies in the middle of a bin where the range is symmetric


@dataclass(frozen=True)
class Distribution:
    """Counts in equal bins of ``[low, high]``, and what the grid did.

    Attributes:
        low, high: the symmetric range that holds all weights, before and after.
        before, after: number of weights in every bin.
        zeros: share of the codes that stand for 0.
        clipped: share of the weights that lie more than half a step beyond their grid's ends.
    """

    low: float
    high: float
    before: tuple[int, ...]
    after: tuple[int, ...]
    zeros: float
    clipped: float


def distribution(weight: Floats, codes: Codes, grid: Grid, bins: int = BINS) -> Distribution:
    """Compare a weight ``[g, o, k]`` with the codes that stand for it.

    Raises:
        ValueError: the weight holds nothing, NaN or Inf.
    """
    if not weight.size or not np.isfinite(weight).all():
        raise ValueError("no weights, or NaN or Inf among them")
    written = grid.values(codes)
    largest = float(max(np.abs(weight).max(), np.abs(written).max())) or 1.0
    edges = (-largest, largest)
    scale, zero = grid.spread(codes.shape[2])  # [g, o, k]
    first, last = code_range(grid.bits)
    place = weight / scale + zero
    return Distribution(
        *edges,
        tuple(np.histogram(weight, bins, edges)[0].tolist()),
        tuple(np.histogram(written, bins, edges)[0].tolist()),
        float(np.mean(codes == zero)),
        float(np.mean((place < first - 0.5) | (place > last + 0.5))),
    )
