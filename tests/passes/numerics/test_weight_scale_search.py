"""The search for a scale: never worse than that of the largest weight, near the best, and at least the smallest."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.numerics.error import sqnr_db
from passes.numerics.grid import Floats, Grid, code_range
from passes.numerics.weight_scale_search import absmax_grid, search_grid
from tests.support.arrays import heavy_tailed, ones_for


def importances(g: int, k: int, seed: int = 0) -> Floats:
    return np.random.default_rng([seed, 1]).lognormal(0, 2, (g, k)).astype(np.float32)


def errors(weight: Floats, grid: Grid, importance: Floats) -> np.ndarray:
    """Return Σ_k importance_k (Q(w_k) - w_k)² of each output channel, ``[g, o]``."""
    difference = grid.values(grid.codes(weight)).astype(np.float64) - weight
    return np.asarray((np.square(difference) * importance[:, None, :]).sum(axis=2))


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 20)),
    bits=st.integers(2, 8),
    block_size=st.none() | st.integers(1, 8),
    symmetric=st.booleans(),
    on_grid=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_search_is_never_worse_than_absmax(
    shape: tuple[int, int, int], bits: int, block_size: int | None, symmetric: bool, on_grid: bool, seed: int
) -> None:
    weight, importance = heavy_tailed(*shape, seed), importances(shape[0], shape[2], seed)
    plain = absmax_grid(weight, bits, block_size=block_size, symmetric=symmetric)
    if on_grid:  # in this case absmax is optimal
        weight = plain.values(plain.codes(weight))
        plain = absmax_grid(weight, bits, block_size=block_size, symmetric=symmetric)
    searched = search_grid(weight, bits, importance, block_size=block_size, symmetric=symmetric)
    before, after = errors(weight, plain, importance), errors(weight, searched, importance)
    assert np.all(after <= before * 1.0001 + 1e-9 * np.square(weight).max() * importance.max())  # float32 sums


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_that_are_on_a_grid_stay(bits: int) -> None:
    """A model that was quantized before has no further error."""
    low, high = code_range(bits)
    codes = np.random.default_rng(bits).integers(max(low, -high), high, (1, 6, 40), endpoint=True)
    codes[:, :, 0] = high
    weight = (codes * np.array([0.5, 0.01, 3.0, 1e-3, 0.1, 7.0])[None, :, None]).astype(np.float32)
    grid = search_grid(weight, bits, ones_for(weight))
    np.testing.assert_allclose(grid.values(grid.codes(weight)), weight, rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_search_is_close_to_the_best_scale(bits: int, weighted: bool) -> None:
    weight = heavy_tailed(1, 6, 256, bits)
    importance = importances(1, 256) if weighted else ones_for(weight)
    plain = absmax_grid(weight, bits)
    tried = [
        errors(weight, Grid(bits, (plain.scale * share).astype(np.float32), plain.zero_point), importance)
        for share in np.linspace(0.25, 1.1, 2000)
    ]
    best = np.min(tried, axis=0)
    searched = errors(weight, search_grid(weight, bits, importance), importance)
    assert np.all(searched <= 1.05 * best)  # 80 candidates against 2,000
    assert searched.sum() < 0.8 * errors(weight, plain, importance).sum()  # the search gains clearly


def test_importance_decides() -> None:
    weight, importance = heavy_tailed(2, 4, 64), importances(2, 64)
    weighted = search_grid(weight, 3, importance)
    unweighted = search_grid(weight, 3, ones_for(weight))
    assert errors(weight, weighted, importance).sum() < 0.9 * errors(weight, unweighted, importance).sum()
    assert errors(weight, unweighted, ones_for(weight)).sum() < 0.99 * errors(weight, weighted, ones_for(weight)).sum()


def test_each_group_has_its_own_importance() -> None:
    weight, importance = heavy_tailed(2, 3, 32), importances(2, 32)
    both = search_grid(weight, 4, importance)
    for g in range(2):
        alone = search_grid(weight[g : g + 1], 4, importance[g : g + 1])
        np.testing.assert_array_equal(both.scale[g], alone.scale[0])


@pytest.mark.parametrize("block_size", [1, 4, 7, 20, 32])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_block_is_solved_on_its_own(block_size: int, symmetric: bool) -> None:
    weight, importance = heavy_tailed(2, 3, 20), importances(2, 20)
    for searched in (
        search_grid(weight, 3, importance, block_size=block_size, symmetric=symmetric),
        absmax_grid(weight, 3, block_size=block_size, symmetric=symmetric),
    ):
        count = -(-20 // block_size)
        assert searched.scale.shape == searched.zero_point.shape == (2, 3, count)
        assert searched.block_size == block_size
    searched = search_grid(weight, 3, importance, block_size=block_size, symmetric=symmetric)
    for b in range(count):
        part = slice(b * block_size, (b + 1) * block_size)
        alone = search_grid(weight[:, :, part], 3, importance[:, part], symmetric=symmetric)
        np.testing.assert_array_equal(searched.scale[:, :, b], alone.scale[:, :, 0])
        np.testing.assert_array_equal(searched.zero_point[:, :, b], alone.zero_point[:, :, 0])


def test_blocks_lose_less_than_channels() -> None:
    weight = heavy_tailed(1, 4, 256)
    channel, blocks = (search_grid(weight, 3, ones_for(weight), block_size=block_size) for block_size in (None, 16))
    assert errors(weight, blocks, ones_for(weight)).sum() < 0.7 * errors(weight, channel, ones_for(weight)).sum()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("block_size", [None, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_smallest_scale_is_respected_in_every_channel(bits: int, block_size: int | None, symmetric: bool) -> None:
    weight, importance = heavy_tailed(2, 4, 20), importances(2, 20)
    free = search_grid(weight, bits, importance, block_size=block_size, symmetric=symmetric)
    min_scale = free.scale.min(axis=2)
    min_scale[:, ::2] *= 5  # limits every other channel
    min_scale[:, 1::2] *= 0.01
    for grid in (
        search_grid(weight, bits, importance, block_size=block_size, symmetric=symmetric, min_scale=min_scale),
        absmax_grid(weight, bits, block_size=block_size, symmetric=symmetric, min_scale=min_scale),
    ):
        assert np.all(grid.scale >= min_scale[:, :, None])
    np.testing.assert_array_equal(
        search_grid(weight, bits, importance, block_size=block_size, symmetric=symmetric, min_scale=min_scale).scale[
            :, 1::2
        ],
        free.scale[:, 1::2],
    )


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_absmax_reaches_the_largest_weight_exactly(bits: int) -> None:
    weight = heavy_tailed(2, 3, 15)
    grid = absmax_grid(weight, bits)
    high = code_range(bits)[1]
    np.testing.assert_allclose(grid.scale[:, :, 0] * high, np.abs(weight).max(axis=2), rtol=1e-6)
    assert grid.symmetric
    worst = np.abs(grid.values(grid.codes(weight)) - weight)
    assert np.all(worst <= 0.5001 * grid.scale)  # nothing is clipped


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_affine_absmax_clips_nothing_and_keeps_zero(bits: int) -> None:
    weight = heavy_tailed(2, 3, 15) + np.float32(0.5)
    grid = absmax_grid(weight, bits, symmetric=False)
    worst = np.abs(grid.values(grid.codes(weight)) - weight)
    assert np.all(worst <= 1.001 * grid.scale)  # half a step from rounding, half a step from the zero point
    zero = np.zeros_like(weight)
    np.testing.assert_array_equal(grid.values(grid.codes(zero)), zero)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_affine_grid_halves_the_step_of_one_sided_weights(sign: int) -> None:
    weight = sign * np.abs(heavy_tailed(1, 4, 200))
    affine = errors(weight, search_grid(weight, 4, ones_for(weight), symmetric=False), ones_for(weight)).sum()
    symmetric = errors(weight, search_grid(weight, 4, ones_for(weight)), ones_for(weight)).sum()
    assert affine < 0.4 * symmetric  # a quarter in theory, with one code less


def test_symmetric_grids_have_zero_points_of_zero() -> None:
    weight = np.abs(heavy_tailed(1, 4, 30))
    assert search_grid(weight, 4, ones_for(weight)).symmetric
    assert not search_grid(weight, 4, ones_for(weight), symmetric=False).symmetric


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block_size", [None, 4])
def test_a_channel_of_zeros_and_inputs_without_importance(symmetric: bool, block_size: int | None) -> None:
    weight = heavy_tailed(1, 3, 10)
    weight[:, 1] = 0
    for importance in (ones_for(weight), np.zeros((1, 10), np.float32)):
        grid = search_grid(weight, 4, importance, block_size=block_size, symmetric=symmetric)
        assert np.all(grid.scale > 0)
        assert np.isfinite(grid.scale).all()
        np.testing.assert_array_equal(grid.values(grid.codes(weight))[:, 1], weight[:, 1])


def normal_and_heavy_tailed(k: int) -> Floats:
    rng = np.random.default_rng(k)
    parts = (rng.standard_normal((1, 8, k)), rng.laplace(size=(1, 8, k)), rng.standard_t(4, (1, 8, k)))
    return np.concatenate(parts, axis=1).astype(np.float32)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("k", [27, 576, 4608])
def test_two_bits_do_not_collapse_to_zero(k: int, symmetric: bool) -> None:
    """At 2 bits, the scale of the largest weight rounds nearly all others to 0. A searched scale uses every code."""
    weight = normal_and_heavy_tailed(k)
    plain, searched = (
        absmax_grid(weight, 2, symmetric=symmetric),
        search_grid(weight, 2, ones_for(weight), symmetric=symmetric),
    )
    gains = [sqnr_db(row, searched.values(searched.codes(weight))[0, at]) for at, row in enumerate(weight[0])]
    losses = [sqnr_db(row, plain.values(plain.codes(weight))[0, at]) for at, row in enumerate(weight[0])]
    assert np.mean(gains) > np.mean(losses) + (1 if k == 27 else 3)
    assert min(gains) > 4.5  # the best grid of four levels has 5 to 7 dB for a Laplace or t4 density
    zeros = (searched.codes(weight) == searched.zero_point).mean(axis=2)
    assert zeros.max() < 0.9
    if k > 27 and symmetric:
        assert (plain.codes(weight) == 0).mean() > 0.9  # the case of this test
        assert len(np.unique(searched.codes(weight))) == 4


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 40)),
    bits=st.integers(2, 3),
    block_size=st.none() | st.integers(1, 8),
    symmetric=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_no_channel_becomes_zero(
    shape: tuple[int, int, int], bits: int, block_size: int | None, symmetric: bool, seed: int
) -> None:
    weight = heavy_tailed(*shape, seed)
    grid = search_grid(weight, bits, importances(shape[0], shape[2], seed), block_size=block_size, symmetric=symmetric)
    assert np.all(np.abs(grid.values(grid.codes(weight))).max(axis=2) > 0)
