"""The beam search: as good as brute force on tiny problems, and never worse than the sweep."""

import itertools

import numpy as np
import pytest

from passes.numerics.beam import FACTORS, beam_search, beam_work
from passes.numerics.gptq import gptq, inverse_factor
from passes.numerics.grid import Codes, Floats, Grid, code_range
from passes.numerics.moments import Moments, MomentsAccumulator
from passes.numerics.weight_grid import GridForm
from passes.numerics.weight_scale_search import absmax_grid


def problem(groups: int, outputs: int, k: int, *, correlation: float = 0.9, seed: int = 0) -> tuple[Floats, Moments]:
    """Return a weight, and the moments of inputs whose neighbours are correlated."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((groups, 400, 1))
    rows = correlation * shared + (1 - correlation) * rng.standard_normal((groups, 400, k))
    accumulator = MomentsAccumulator(groups, k, cross=False)
    accumulator.update(rows.astype(np.float32))
    return rng.standard_normal((groups, outputs, k)).astype(np.float32), accumulator.moments()


def search(weight: Floats, moments: Moments, grid: Grid, beam: int) -> tuple[Codes, Grid]:
    """Run `beam_search` in the original order of the inputs."""
    upper, _ = inverse_factor(moments.hessian, 1e-4)
    order = np.tile(np.arange(weight.shape[2]), (len(weight), 1))
    return beam_search(weight, upper.astype(np.float32), grid, order, beam=beam)


def errors(weight: Floats, values: Floats, hessian: Floats) -> Floats:
    """Return the error of each row, ``[g, o]``."""
    missed = weight - values
    return np.asarray(np.einsum("gok,gkl,gol->go", missed, hessian, missed, optimize=True))


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_wide_beam_is_exact(symmetric: bool) -> None:
    """Compare with all codes of 2 bits for 4 inputs, on every scale that is tried."""
    weight, moments = problem(2, 3, 4)
    grid = absmax_grid(weight, 2, symmetric=symmetric)
    codes, best_grid = search(weight, moments, grid, beam=4**4)
    best = np.full((2, 3), np.inf)
    low, high = code_range(2)
    for factor in FACTORS:
        own = Grid(2, (grid.scale * np.float32(factor)).astype(np.float32), grid.zero_point, None)
        for choice in itertools.product(range(low, high + 1), repeat=4):
            values = own.values(np.broadcast_to(np.array(choice, np.int8), weight.shape))
            best = np.minimum(best, errors(weight, values, moments.hessian))
    # only the two codes nearest to each ideal value are followed, so the best may be missed
    assert errors(weight, best_grid.values(codes), moments.hessian).sum() <= 1.02 * best.sum() + 1e-6


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_it_beats_the_sweep(bits: int, correlation: float) -> None:
    ratios = []
    for seed in range(6):
        weight, moments = problem(1, 16, 24, correlation=correlation, seed=seed)
        swept, widened = (gptq(weight, moments, GridForm(bits), damping=1e-4, beam=beam) for beam in (1, 8))
        narrow, wide = (errors(weight, r.grid.values(r.codes), moments.hessian).sum() for r in (swept, widened))
        ratios.append(float(wide / narrow))
    assert np.mean(ratios) < (0.97 if correlation else 0.99)
    assert max(ratios) < 1.01


def test_a_wider_beam_has_a_smaller_error() -> None:
    weight, moments = problem(1, 32, 24)
    grid = absmax_grid(weight, 3)
    losses = []
    for beam in (1, 4, 32):
        codes, best_grid = search(weight, moments, grid, beam)
        losses.append(float(errors(weight, best_grid.values(codes), moments.hessian).sum()))
    assert losses[0] > losses[1] > losses[2]


def test_the_smallest_scale_is_respected() -> None:
    weight, moments = problem(2, 5, 6)
    grid = absmax_grid(weight, 4)
    min_scale = (grid.scale[:, :, 0] * 1.1).astype(np.float32)
    upper, _ = inverse_factor(moments.hessian, 0.01)
    order = np.tile(np.arange(6), (2, 1))
    _, best_grid = beam_search(weight, upper.astype(np.float32), grid, order, beam=4, min_scale=min_scale)
    assert (best_grid.scale[:, :, 0] >= min_scale).all()
    assert best_grid.scale.dtype == np.float32


def test_blocks_keep_their_own_scales() -> None:
    weight, moments = problem(1, 8, 12)
    plain = gptq(weight, moments, GridForm(3, block_size=4))
    wide = gptq(weight, moments, GridForm(3, block_size=4), beam=8)
    assert wide.grid.scale.shape == plain.grid.scale.shape == (1, 8, 3)
    before, after = (errors(weight, r.grid.values(r.codes), moments.hessian).sum() for r in (plain, wide))
    assert after < before


def test_a_large_layer_uses_the_sweep() -> None:
    """The result equals that of the sweep bit for bit. The beam search would take minutes."""
    assert beam_work((1, 512, 512), 8) > 200_000_000
    weight, moments = problem(1, 300, 160, correlation=0.3)
    assert beam_work((1, 300, 160), 8) > 200_000_000
    plain, wide = gptq(weight, moments, GridForm(4)), gptq(weight, moments, GridForm(4), beam=8)
    np.testing.assert_array_equal(plain.codes, wide.codes)
