"""The search of scales: it finds the candidate with the least error of all, whatever it does not sum up."""

import numpy as np
import pytest

from passes.numerics.grid import Floats, Grid, code_range
from passes.numerics.weight_scale_search import absmax_grid, blocked, search_grid


def one_by_one(weight: Floats, bits: int, importance: Floats, block_size: int | None, symmetric: bool) -> Grid:
    """Sum up every candidate for every block."""
    values, costs = blocked(weight, block_size), blocked(importance[:, None, :], block_size)
    low_code, high_code = code_range(bits)
    least = np.full(values.shape[:3], np.inf, np.float32)
    scale, zero = np.ones_like(least), np.zeros_like(least)
    for shrink in (1.0, *np.linspace(1.1, 0.25 if bits > 3 else 0.05, 80)):
        low = np.minimum(values.min(axis=3), 0) * np.float32(shrink)
        high = np.maximum(values.max(axis=3), 0) * np.float32(shrink)
        step = np.maximum(-low, high) / high_code if symmetric else (high - low) / (high_code - low_code)
        step = np.maximum(step, np.finfo(np.float32).tiny * 1e6).astype(np.float32)
        offset = np.zeros_like(step) if symmetric else np.clip(np.rint(low_code - low / step), low_code, high_code)
        codes = np.clip(np.rint(values / step[..., None]) + offset[..., None], low_code, high_code)
        error = (np.square((codes - offset[..., None]) * step[..., None] - values) * costs).sum(axis=3)
        better = error < least
        least, scale, zero = (
            np.where(better, new, old) for new, old in ((error, least), (step, scale), (offset, zero))
        )
    return Grid(bits, scale, zero.astype(np.int8), block_size)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block_size", [None, 8])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(1, 8, 72), (16, 1, 9), (2, 3, 33), (1, 2, 1)])
def test_the_best_of_all_candidates(
    shape: tuple[int, int, int], bits: int, block_size: int | None, symmetric: bool
) -> None:
    rng = np.random.default_rng(bits)
    weight = rng.standard_t(3, size=shape).astype(np.float32)
    weight[0, 0] *= 0  # a channel of zeros
    importance = rng.random((shape[0], shape[2])).astype(np.float32)
    importance[:, ::4] = 0
    actual = search_grid(weight, bits, importance, block_size=block_size, symmetric=symmetric)
    expected = one_by_one(weight, bits, importance, block_size, symmetric)
    np.testing.assert_array_equal(actual.scale, expected.scale)
    np.testing.assert_array_equal(actual.zero_point, expected.zero_point)


def test_parts_are_searched_as_the_whole() -> None:
    """More weights than are searched together."""
    weight = np.random.default_rng(0).normal(size=(2, 40, 1200)).astype(np.float32)
    importance = np.random.default_rng(1).random((2, 1200)).astype(np.float32)
    whole = search_grid(weight, 8, importance)
    rows = [search_grid(weight[g : g + 1, o : o + 1], 8, importance[g : g + 1]) for g in range(2) for o in range(40)]
    np.testing.assert_array_equal(whole.scale.reshape(-1), np.concatenate([row.scale.reshape(-1) for row in rows]))


def test_the_smallest_scale_holds() -> None:
    weight = np.random.default_rng(0).normal(size=(1, 4, 16)).astype(np.float32)
    smallest = np.full((1, 4), 0.5, np.float32)
    for grid in (
        search_grid(weight, 8, np.ones((1, 16), np.float32), min_scale=smallest),
        absmax_grid(weight, 8, min_scale=smallest),
    ):
        assert (grid.scale == 0.5).all()
