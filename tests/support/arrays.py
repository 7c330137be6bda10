"""Random weights and rows ``[g, ., k]`` for the mathematics, and their second moments."""

import numpy as np

from passes.numerics.grid import Floats
from passes.numerics.moments import Moments, MomentsAccumulator
from passes.numerics.output_statistics import OutputStatistics, OutputSums

__all__ = ["heavy_tailed", "moments_of", "normal", "ones_for", "output_pair", "output_statistics", "rows"]


def normal(g: int, o: int, k: int, seed: int = 0) -> Floats:
    """Return normally distributed weights ``[g, o, k]``."""
    return np.random.default_rng([seed, 7]).normal(size=(g, o, k)).astype(np.float32)


def heavy_tailed(g: int, o: int, k: int, seed: int = 0) -> Floats:
    """Return heavy-tailed weights ``[g, o, k]`` whose channels have very different scales."""
    rng = np.random.default_rng(seed)
    return (rng.standard_t(4, (g, o, k)) * rng.lognormal(0, 1, (g, o, 1))).astype(np.float32)


def ones_for(weight: Floats) -> Floats:
    """Return the same importance ``[g, k]`` for every input of a weight ``[g, o, k]``."""
    return np.ones((weight.shape[0], weight.shape[2]), np.float32)


def rows(g: int, n: int, k: int, seed: int = 0, correlation: float = 0.9) -> Floats:
    """Return inputs that are correlated with their neighbours, as in a convolution, and of different scales."""
    rng = np.random.default_rng([seed, 8])
    x = rng.normal(size=(g, n, k))
    for j in range(1, k):
        x[:, :, j] = correlation * x[:, :, j - 1] + np.sqrt(1 - correlation**2) * x[:, :, j]
    return (x * rng.lognormal(0, 0.5, (g, 1, k))).astype(np.float32)


def moments_of(quantized: Floats, float_rows: Floats | None = None) -> Moments:
    """Return the moments of rows ``[g, n, k]``. With the float network's rows, they include cross moments."""
    total = MomentsAccumulator(quantized.shape[0], quantized.shape[2], cross=float_rows is not None)
    total.update(quantized, None if float_rows is None else float_rows - quantized)
    return total.moments()


def output_pair(seed: int = 0, rows: int = 500) -> tuple[Floats, Floats]:
    """Return outputs ``[2, n, 3]`` of a float network, and of one that shrinks and shifts them."""
    rng = np.random.default_rng(seed)
    reference = rng.standard_normal((2, rows, 3)) + np.arange(3)
    other = reference * rng.uniform(0.6, 1.2, (2, 1, 3)) + rng.standard_normal((2, 1, 3)) * 0.3
    other += rng.standard_normal(reference.shape) * 0.1
    return reference.astype(np.float32), other.astype(np.float32)


def output_statistics(reference: Floats, other: Floats, parts: int = 1) -> OutputStatistics:
    """Return statistics of both networks' outputs, added in ``parts`` batches."""
    sums = OutputSums(2, 3)
    for one, two in zip(np.array_split(reference, parts, axis=1), np.array_split(other, parts, axis=1), strict=True):
        sums.update(one, two)
    return sums.statistics()
