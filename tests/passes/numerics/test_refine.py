"""Descent after rounding: the error never rises, and at the end no other scale or single code is better."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.numerics.grid import Codes, Floats, Grid, code_range
from passes.numerics.refine import refine
from passes.numerics.weight_scale_search import absmax_grid


def problem(
    g: int, o: int, k: int, bits: int, seed: int = 0, block_size: int | None = None, symmetric: bool = True
) -> tuple[Floats, Codes, Grid, Floats]:
    """Return a target, its nearest codes, their grid, and a Hessian of correlated inputs."""
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(g, o, k)).astype(np.float32)
    x = rng.normal(size=(g, 4 * k, k)) + rng.normal(size=(g, 4 * k, 1))
    hessian = (2 / (4 * k) * x.transpose(0, 2, 1) @ x + 0.01 * np.eye(k)).astype(np.float32)
    grid = absmax_grid(target, bits, block_size=block_size, symmetric=symmetric)
    return target, grid.codes(target), grid, hessian


def errors(target: Floats, codes: Codes, grid: Grid, hessian: Floats) -> np.ndarray:
    difference = grid.values(codes).astype(np.float64) - target
    return np.asarray(np.einsum("gok,gkl,gol->go", difference, hessian.astype(np.float64), difference))


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 12)),
    bits=st.integers(2, 8),
    block_size=st.none() | st.integers(1, 6),
    symmetric=st.booleans(),
    rounds=st.integers(0, 4),
    seed=st.integers(0, 10_000),
)
def test_the_error_never_rises(
    shape: tuple[int, int, int], bits: int, block_size: int | None, symmetric: bool, rounds: int, seed: int
) -> None:
    target, codes, grid, hessian = problem(*shape, bits, seed, block_size, symmetric)
    new_codes, refitted = refine(target, codes, grid, hessian, rounds=rounds)
    before, after = errors(target, codes, grid, hessian), errors(target, new_codes, refitted, hessian)
    assert np.all(after <= before * 1.0001 + 1e-9)
    low, high = code_range(bits)
    assert new_codes.dtype == np.int8
    assert low <= new_codes.min()
    assert new_codes.max() <= high
    assert np.all(refitted.scale > 0)
    np.testing.assert_array_equal(refitted.zero_point, grid.zero_point)
    if block_size is not None:
        np.testing.assert_array_equal(refitted.scale, grid.scale)
    if rounds == 0:
        np.testing.assert_array_equal(new_codes, codes)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("symmetric", [True, False])
def test_at_the_end_no_code_and_no_scale_does_better(bits: int, symmetric: bool) -> None:
    target, codes, grid, hessian = problem(2, 5, 8, bits, symmetric=symmetric)
    new_codes, refitted = refine(target, codes, grid, hessian, rounds=50)
    least = errors(target, new_codes, refitted, hessian)
    assert least.sum() < 0.6 * errors(target, codes, grid, hessian).sum()
    low, high = code_range(bits)
    for k in range(8):
        for code in range(low, high + 1):
            other = new_codes.copy()
            other[:, :, k] = code
            assert np.all(errors(target, other, refitted, hessian) >= least * 0.9999)
    for factor in (0.99, 1.01):
        other_grid = Grid(bits, (refitted.scale * np.float32(factor)), refitted.zero_point)
        assert np.all(errors(target, new_codes, other_grid, hessian) >= least * 0.9999)


def test_the_smallest_scale_is_respected() -> None:
    target, codes, grid, hessian = problem(1, 6, 8, 3)
    min_scale = grid.scale[:, :, 0].copy()
    min_scale[:, ::2] *= 0.01
    _, refitted = refine(target, codes, grid, hessian, rounds=5, min_scale=min_scale)
    assert np.all(refitted.scale[:, :, 0] >= min_scale)
    assert (refitted.scale != grid.scale).any()


@pytest.mark.parametrize("lazy", [1, 3, 20])
@pytest.mark.parametrize("block_size", [None, 6])
def test_lazy_updates_do_not_change_the_codes(lazy: int, block_size: int | None) -> None:
    target, codes, grid, hessian = problem(2, 5, 20, 3, block_size=block_size)
    reference, other = (refine(target, codes, grid, hessian, rounds=3, lazy=size)[0] for size in (128, lazy))
    np.testing.assert_array_equal(other, reference)


def test_arguments_are_not_changed() -> None:
    target, codes, grid, hessian = problem(1, 4, 10, 3)
    before = [array.copy() for array in (target, codes, grid.scale, hessian)]
    refine(target, codes, grid, hessian, rounds=3)
    for array, copy in zip((target, codes, grid.scale, hessian), before, strict=True):
        np.testing.assert_array_equal(array, copy)
