"""GPFQ in second moments, compared with GPFQ on the rows, with the paper's properties, and with rounding to nearest."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.numerics.gpfq import gpfq
from passes.numerics.gptq import output_error, rounding_order
from passes.numerics.grid import Codes, Grid, code_range
from passes.numerics.moments import Moments
from passes.numerics.weight_grid import GridForm
from tests.support.arrays import moments_of, normal, rows


def two_streams(g: int, n: int, k: int, seed: int = 0, noise: float = 0.1) -> tuple[Any, Any]:
    """Return inputs of a float network, and shrunk, noisy ones of a quantized network, as float64."""
    exact = rows(g, n, k, seed).astype(np.float64)
    rng = np.random.default_rng([seed, 11])
    return exact, 0.9 * exact + noise * rng.normal(size=exact.shape)


def exact_moments(quantized: Any, float_rows: Any, residual: Any = None) -> Moments:
    """Return moments in float64, so that codes can be compared one by one."""
    factor = 2 / quantized.shape[1]
    turned = quantized.transpose(0, 2, 1)
    return Moments(
        factor * turned @ quantized,
        factor * (float_rows - quantized).transpose(0, 2, 1) @ quantized,
        float_rows.mean(axis=1),
        quantized.mean(axis=1),
        quantized.shape[1],
        residual=None if residual is None else factor * residual.transpose(0, 2, 1) @ quantized,
        mean_residual=None if residual is None else residual.mean(axis=1),
    )


def from_the_paper(
    weight: Any, float_rows: Any, quantized: Any, grid: Grid, order: np.ndarray, start: Any = None
) -> Codes:
    """Run GPFQ on rows: u follows the difference of both networks' outputs."""
    low, high = code_range(grid.bits)
    scale, zero = (part.astype(np.float64) for part in grid.spread(weight.shape[2]))
    codes = np.zeros(weight.shape, np.int8)
    for g, o in np.ndindex(*weight.shape[:2]):
        u = np.zeros(quantized.shape[1]) if start is None else start[g, :, o].copy()
        for t in order[g]:
            x, y = float_rows[g, :, t], quantized[g, :, t]
            u += weight[g, o, t] * x
            wanted = float(u @ y / (y @ y)) if y.any() else float(weight[g, o, t])
            code = np.clip(np.rint(wanted / scale[g, o, t]) + zero[g, o, t], low, high)
            codes[g, o, t] = code
            u -= (code - zero[g, o, t]) * scale[g, o, t] * y
    return codes


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 14)),
    bits=st.integers(2, 8),
    block_size=st.none() | st.integers(1, 6),
    symmetric=st.booleans(),
    act_order=st.booleans(),
    added=st.booleans(),
    lazy=st.sampled_from([1, 3, 128]),
    seed=st.integers(0, 10_000),
)
def test_codes_are_those_of_the_rows(
    shape: tuple[int, int, int],
    bits: int,
    block_size: int | None,
    symmetric: bool,
    act_order: bool,
    added: bool,
    lazy: int,
    seed: int,
) -> None:
    g, o, k = shape
    float_rows, quantized = two_streams(g, 3 * k + 5, k, seed)
    weight: Any = normal(g, o, k, seed).astype(np.float64)
    residual = np.random.default_rng(seed).normal(size=(g, quantized.shape[1], o)) if added else None
    moments = exact_moments(quantized, float_rows, residual)
    order = rounding_order(moments, act_order)
    grid = GridForm(bits, block_size, symmetric).grid(weight.astype(np.float32))
    expected = from_the_paper(weight, float_rows, quantized, grid, order, residual)
    actual = gpfq(weight, moments, grid, order, lazy=lazy)
    assert actual.dtype == np.int8
    np.testing.assert_array_equal(actual, expected)


def test_the_comparison_above_notices_what_is_left_out() -> None:
    float_rows, quantized = two_streams(2, 100, 24)
    weight: Any = normal(2, 12, 24).astype(np.float64)
    residual = np.random.default_rng(0).normal(size=(2, 100, 12))
    moments = exact_moments(quantized, float_rows, residual)
    order = rounding_order(moments, act_order=True)
    grid = GridForm(4).grid(weight.astype(np.float32))
    expected = from_the_paper(weight, float_rows, quantized, grid, order, residual)
    np.testing.assert_array_equal(gpfq(weight, moments, grid, order), expected)
    for wrong in (
        gpfq(weight, replace(moments, cross=None), grid, order),
        gpfq(weight, replace(moments, residual=None), grid, order),
        gpfq(weight, moments, grid, rounding_order(moments, act_order=False)),
        grid.codes(weight.astype(np.float32)),
    ):
        assert (wrong != expected).any(axis=2).mean() > 0.3


def test_moments_in_float32_give_the_same_codes_but_for_ties() -> None:
    float_rows, quantized = (each.astype(np.float32) for each in two_streams(2, 200, 40))
    weight, moments = normal(2, 20, 40), moments_of(quantized, float_rows)
    order, grid = rounding_order(moments, act_order=True), GridForm(4).grid(weight)
    expected = from_the_paper(
        weight.astype(np.float64), float_rows.astype(np.float64), quantized.astype(np.float64), grid, order
    )
    assert (gpfq(weight, moments, grid, order) != expected).any(axis=2).mean() <= 0.05


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 12)),
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    act_order=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_without_correlation_it_is_round_to_nearest(
    shape: tuple[int, int, int], bits: int, symmetric: bool, act_order: bool, seed: int
) -> None:
    """So it is with one input, and where both networks have the same inputs."""
    weight = normal(*shape, seed)
    hessian = np.zeros((shape[0], shape[2], shape[2]), np.float32)
    hessian[:] = np.diag(np.random.default_rng(seed).uniform(0.1, 9, shape[2]))
    zero = np.zeros((shape[0], shape[2]), np.float32)
    moments = Moments(hessian, None, zero, zero, 1)
    grid = GridForm(bits, symmetric=symmetric).grid(weight)
    codes = gpfq(weight, moments, grid, rounding_order(moments, act_order))
    np.testing.assert_array_equal(codes, grid.codes(weight))


def test_dead_inputs_are_rounded_to_nearest() -> None:
    x = rows(1, 100, 12)
    x[:, :, [2, 7]] = 0
    weight, moments = normal(1, 8, 12), moments_of(x, x)
    grid = GridForm(4).grid(weight)
    codes = gpfq(weight, moments, grid, rounding_order(moments, act_order=True))
    np.testing.assert_array_equal(codes[:, :, [2, 7]], grid.codes(weight)[:, :, [2, 7]])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("which", ["hessian", "cross"])
def test_nan_and_inf_are_refused(which: str, value: float) -> None:
    x = rows(1, 50, 5)
    moments = moments_of(x, x)
    bad: dict[str, Any] = {which: np.array(getattr(moments, which))}
    bad[which][0, 1, 2] = value
    weight = normal(1, 3, 5)
    with pytest.raises(np.linalg.LinAlgError, match="NaN or Inf"):
        gpfq(weight, replace(moments, **bad), GridForm(4).grid(weight), rounding_order(moments, False))


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize(("correlation", "most"), [(0.3, 1.0), (0.6, 0.9), (0.9, 0.6)])
def test_the_error_is_below_that_of_round_to_nearest(bits: int, correlation: float, most: float) -> None:
    """The mean of eight weights, on the same grid."""
    errors = []
    for seed in range(8):
        weight, moments = normal(1, 16, 32, seed), moments_of(rows(1, 640, 32, seed, correlation))
        grid = GridForm(bits).grid(weight)
        codes = (grid.codes(weight), gpfq(weight, moments, grid, rounding_order(moments, act_order=True)))
        errors.append([output_error(weight, grid.values(one), moments.hessian) for one in codes])
    nearest, greedy = np.mean(errors, axis=0)
    assert greedy < most * nearest


def test_it_corrects_the_errors_of_the_layers_before() -> None:
    float_rows, quantized = two_streams(1, 2000, 24)
    weight: Any = normal(1, 16, 24).astype(np.float64)
    moments = exact_moments(quantized, float_rows)
    order, grid = rounding_order(moments, act_order=True), GridForm(8).grid(weight.astype(np.float32))

    def error(codes: Codes) -> float:
        difference = float_rows @ weight.transpose(0, 2, 1) - quantized @ grid.values(codes).transpose(0, 2, 1)
        return float(np.square(difference).mean())

    assert error(gpfq(weight, moments, grid, order)) < 0.8 * error(
        gpfq(weight, replace(moments, cross=None), grid, order)
    )


def test_arguments_are_not_changed() -> None:
    float_rows, quantized = two_streams(1, 50, 6)
    weight, moments = normal(1, 3, 6), moments_of(quantized.astype(np.float32), float_rows.astype(np.float32))
    assert moments.cross is not None
    arrays = (weight, moments.hessian, moments.cross)
    before = [array.copy() for array in arrays]
    gpfq(weight, moments, GridForm(4).grid(weight), rounding_order(moments, act_order=True))
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)
