"""Histograms of a layer's weights before and after rounding, with the same bins."""

from dataclasses import dataclass

import numpy as np

from passes.numerics.grid import Codes, Floats, Grid, code_range

__all__ = ["BINS", "Distribution", "distribution"]

BINS = 101  # odd, so that zero is the middle of a bin: the range is symmetric


@dataclass(frozen=True)
class Distribution:
    """Counts of weights in equal bins of ``[low, high]``, before and after rounding.

    Attributes:
        low: Lower end of the symmetric range that holds all weights, before and after rounding.
        high: Upper end of that range.
        before: Number of weights in each bin before rounding.
        after: Number of weights in each bin after rounding.
        zeros: Share of the codes that represent 0.
        clipped: Share of the weights that lie more than half a step beyond the ends of their grid.
    """

    low: float
    high: float
    before: tuple[int, ...]
    after: tuple[int, ...]
    zeros: float
    clipped: float


def distribution(weight: Floats, codes: Codes, grid: Grid, bins: int = BINS) -> Distribution:
    """Compare a weight ``[g, o, k]`` with its codes ``[g, o, k]``.

    Raises:
        ValueError: The weight is empty, or has NaN or Inf.
    """
    if not weight.size or not np.isfinite(weight).all():
        raise ValueError("no weights, or NaN or Inf among them")
    rounded = grid.values(codes)
    largest = float(max(np.abs(weight).max(), np.abs(rounded).max())) or 1.0
    edges = (-largest, largest)
    scale, zero = grid.spread(codes.shape[2])  # [g, o, k]
    first, last = code_range(grid.bits)
    position = weight / scale + zero
    return Distribution(
        *edges,
        tuple(np.histogram(weight, bins, edges)[0].tolist()),
        tuple(np.histogram(rounded, bins, edges)[0].tolist()),
        float(np.mean(codes == zero)),
        float(np.mean((position < first - 0.5) | (position > last + 0.5))),
    )
