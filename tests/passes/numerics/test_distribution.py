"""Histograms of weights before and after rounding."""

import numpy as np
import pytest

from passes.numerics.distribution import BINS, distribution
from passes.numerics.grid import Grid


def grid(bits: int, scale: float, zero_point: int = 0) -> Grid:
    return Grid(bits, np.full((1, 2, 1), scale, np.float32), np.full((1, 2, 1), zero_point, np.int8))


def test_four_weights_by_hand() -> None:
    on_grid = grid(2, 0.5)  # -1, -0.5, 0, 0.5
    weight = np.array([[[-2.0, -0.6], [0.2, 0.6]]], np.float32)
    result = distribution(weight, on_grid.codes(weight), on_grid, bins=4)
    assert (result.low, result.high) == (-2.0, 2.0)
    assert result.before == (1, 1, 2, 0)
    assert result.after == (0, 2, 2, 0)  # -1, -0.5, 0, 0.5: a bin includes its left end
    assert result.zeros == 0.25
    assert result.clipped == 0.25  # -2; a weight half a step beyond the end is rounded, not clipped


def test_counts_are_numpys() -> None:
    weight = np.random.default_rng(0).normal(size=(1, 2, 500)).astype(np.float32)
    on_grid = grid(4, 0.1, 3)
    codes = on_grid.codes(weight)
    result = distribution(weight, codes, on_grid)
    edges = np.linspace(result.low, result.high, BINS + 1)
    assert result.before == tuple(np.histogram(weight, edges)[0])
    assert result.after == tuple(np.histogram(on_grid.values(codes), edges)[0])
    assert result.zeros == np.mean(codes == 3)
    values = on_grid.values(np.array([[[-8, 7]] * 2], np.int8))[0, 0]
    assert result.clipped == np.mean((weight < values[0] - 0.05) | (weight > values[1] + 0.05))


def test_nothing_but_zeros() -> None:
    on_grid, zeros = grid(4, 0.1), np.zeros((1, 2, 3), np.float32)
    result = distribution(zeros, on_grid.codes(zeros), on_grid)
    assert (result.low, result.high, result.zeros, result.clipped) == (-1.0, 1.0, 1.0, 0.0)
    assert result.before[BINS // 2] == sum(result.before) == 6


@pytest.mark.parametrize("values", [[], [np.nan], [np.inf]])
def test_weights_that_are_not_finite_are_refused(values: list[float]) -> None:
    weight = np.array([[values, values]], np.float32)
    with pytest.raises(ValueError, match="no weights, or NaN or Inf"):
        distribution(weight, np.zeros(weight.shape, np.int8), grid(4, 0.1))
