"""Weights before and after rounding, counted in the same bins."""

import numpy as np
import pytest

from passes.numerics.distribution import BINS, distribution
from passes.numerics.grid import Grid


def grid(bits: int, scale: float, zero_point: int = 0) -> Grid:
    return Grid(bits, np.full((1, 2, 1), scale, np.float32), np.full((1, 2, 1), zero_point, np.int8))


def test_four_weights_by_hand() -> None:
    held = grid(2, 0.5)  # -1, -0.5, 0, 0.5
    weight = np.array([[[-2.0, -0.6], [0.2, 0.6]]], np.float32)
    found = distribution(weight, held.codes(weight), held, bins=4)
    assert (found.low, found.high) == (-2.0, 2.0)
    assert found.before == (1, 1, 2, 0)
    assert found.after == (0, 2, 2, 0)  # -1, -0.5, 0, 0.5: a bin begins with its left end
    assert found.zeros == 0.25
    assert found.clipped == 0.25  # -2; what lies half a step beyond the end is rounded, not clipped


def test_counts_are_numpys() -> None:
    weight = np.random.default_rng(0).normal(size=(1, 2, 500)).astype(np.float32)
    held = grid(4, 0.1, 3)
    codes = held.codes(weight)
    found = distribution(weight, codes, held)
    edges = np.linspace(found.low, found.high, BINS + 1)
    assert found.before == tuple(np.histogram(weight, edges)[0])
    assert found.after == tuple(np.histogram(held.values(codes), edges)[0])
    assert found.zeros == np.mean(codes == 3)
    values = held.values(np.array([[[-8, 7]] * 2], np.int8))[0, 0]
    assert found.clipped == np.mean((weight < values[0] - 0.05) | (weight > values[1] + 0.05))


def test_nothing_but_zeros() -> None:
    held, zeros = grid(4, 0.1), np.zeros((1, 2, 3), np.float32)
    found = distribution(zeros, held.codes(zeros), held)
    assert (found.low, found.high, found.zeros, found.clipped) == (-1.0, 1.0, 1.0, 0.0)
    assert found.before[BINS // 2] == sum(found.before) == 6


@pytest.mark.parametrize("values", [[], [np.nan], [np.inf]])
def test_weights_that_are_no_numbers_are_refused(values: list[float]) -> None:
    weight = np.array([[values, values]], np.float32)
    with pytest.raises(ValueError, match="no weights, or NaN or Inf"):
        distribution(weight, np.zeros(weight.shape, np.int8), grid(4, 0.1))
