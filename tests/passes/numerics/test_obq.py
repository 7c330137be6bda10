"""OBQ, compared with the paper step by step and with the optimum. GPTQ, compared with OBQ."""

import itertools

import numpy as np
import pytest

from passes.numerics.gptq import damped, gptq, output_error
from passes.numerics.grid import Codes, Floats, Grid, code_range
from passes.numerics.obq import obq
from passes.numerics.weight_grid import GridForm
from passes.numerics.weight_scale_search import search_grid
from tests.support.arrays import moments_of, normal, rows

DAMPING = 0.01


def problem(g: int, o: int, k: int, bits: int, seed: int = 0) -> tuple[Floats, Floats, Grid]:
    """Return a weight, a damped Hessian of correlated inputs, and a searched grid."""
    weight = normal(g, o, k, seed)
    hessian = damped(moments_of(rows(g, 20 * k, k, seed)).hessian, DAMPING)
    return weight, hessian, search_grid(weight, bits, np.einsum("gkk->gk", hessian))


def from_the_paper(weight: Floats, hessian: Floats, grid: Grid) -> Codes:
    """Run OBQ with a new inverse of the remaining Hessian in every step, instead of updating it."""
    low, high = code_range(grid.bits)
    scale, zero = (part.astype(np.float64) for part in grid.spread(weight.shape[2]))
    codes = np.zeros(weight.shape, np.int8)
    for g, o in np.ndindex(*weight.shape[:2]):
        left = list(range(weight.shape[2]))
        w, step, offset = weight[g, o].astype(np.float64), scale[g, o], zero[g, o]
        while left:
            inverse = np.linalg.inv(hessian[g].astype(np.float64)[np.ix_(left, left)])
            code = np.clip(np.rint(w / step) + offset, low, high)[left]
            error = (w[left] - (code - offset[left]) * step[left]) / step[left]
            if np.abs(error).max() > 0.5000001:
                at = int(np.abs(error).argmax())
            else:
                at = int((np.square(error * step[left]) / inverse.diagonal()).argmin())
            codes[g, o, left[at]] = code[at]
            w[left] -= error[at] * step[left[at]] / inverse[at, at] * inverse[at]
            del left[at]
    return codes


@pytest.mark.parametrize(("bits", "symmetric", "block_size"), [(4, True, None), (3, False, None), (2, True, 5)])
def test_codes_are_the_papers(bits: int, symmetric: bool, block_size: int | None) -> None:
    weight, hessian, _ = problem(2, 6, 18, bits)
    grid = search_grid(weight, bits, np.einsum("gkk->gk", hessian), symmetric=symmetric, block_size=block_size)
    actual = obq(weight, hessian, grid)
    assert actual.dtype == np.int8
    differing = (actual != from_the_paper(weight, hessian, grid)).any(axis=2)
    assert differing.sum() <= 1  # one row has two weights of the same cost


def test_rows_solved_together_or_apart_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hessian, grid = problem(2, 7, 12, 3)
    together = obq(weight, hessian, grid)
    monkeypatch.setattr("passes.numerics.obq._WORKING_SET", 3 * 12 * 12)
    np.testing.assert_array_equal(obq(weight, hessian, grid), together)


def test_without_correlation_it_is_round_to_nearest() -> None:
    weight, _, grid = problem(1, 8, 20, 3)
    hessian = np.diag(np.linspace(1, 3, 20)).astype(np.float32)[None]
    np.testing.assert_array_equal(obq(weight, hessian, grid), grid.codes(weight))


def test_a_hessian_that_is_not_positive_is_refused() -> None:
    weight, hessian, grid = problem(1, 2, 4, 3)
    with pytest.raises(np.linalg.LinAlgError):
        obq(weight, -hessian, grid)


def errors(seed: int, k: int, bits: int, correlation: float, outputs: int = 8) -> tuple[float, float, float]:
    """Return the output errors of round-to-nearest, OBQ and GPTQ with act-order, all on GPTQ's grid."""
    weight, moments = normal(1, outputs, k, seed), moments_of(rows(1, 20 * k, k, seed, correlation))
    result = gptq(weight, moments, GridForm(bits), damping=DAMPING)
    greedy = obq(weight, damped(moments.hessian, DAMPING), result.grid)
    candidates = (result.grid.codes(weight), greedy, result.codes)
    nearest, best, swept = (output_error(weight, result.grid.values(codes), moments.hessian) for codes in candidates)
    return nearest, best, swept


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.6, 0.9])
def test_gptq_is_no_worse_than_obq(correlation: float, bits: int) -> None:
    """Frantar et al. 2022 (GPTQ), §3, step 1: one order for all rows costs little. Act-order costs nothing."""
    nearest, greedy, swept = np.mean([errors(seed, 32, bits, correlation) for seed in range(8)], axis=0)
    assert greedy < (1, 0.95, 0.8, 0.5)[round(correlation / 0.3)] * nearest
    assert swept < 1.02 * greedy


@pytest.mark.parametrize("bits", [2, 3])
def test_how_far_both_are_from_the_optimum(bits: int) -> None:
    k, correlation = 5, 0.5
    low, high = code_range(bits)
    everything = np.array(list(itertools.product(range(low, high + 1), repeat=k)))  # [n, k]
    ratios = []
    for seed in range(20):
        weight, moments = normal(1, 1, k, seed), moments_of(rows(1, 200, k, seed, correlation))
        result = gptq(weight, moments, GridForm(bits), damping=DAMPING)
        difference = everything * result.grid.scale[0, 0, 0] - weight[0]
        optimum = np.einsum("nk,kl,nl->n", difference, moments.hessian[0], difference).min()
        optimum /= float(np.einsum("ok,kl,ol->", weight[0], moments.hessian[0], weight[0]))
        greedy = obq(weight, damped(moments.hessian, DAMPING), result.grid)
        codes = (greedy, result.codes)
        ratios.append([output_error(weight, result.grid.values(one), moments.hessian) / optimum for one in codes])
    actual = np.array(ratios)  # [seed, method]
    assert actual.min() > 1 - 1e-3  # float32
    mean = np.exp(np.log(actual).mean(axis=0))
    assert mean.max() < 1.15  # half of the rows are optimal
