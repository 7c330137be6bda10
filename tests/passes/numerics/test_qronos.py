"""Qronos in second moments, compared with the paper's two steps on rows, with the optimum, and with GPTQ."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.numerics.asymmetric_target import asymmetric_target
from passes.numerics.gptq import gptq, importance_of, inverse_factor, permuted, rounding_order
from passes.numerics.grid import Codes, Floats, Grid, code_range
from passes.numerics.moments import Moments, MomentsAccumulator
from passes.numerics.qronos import qronos
from passes.numerics.weight_grid import GridForm
from tests.support.arrays import moments_of, normal, rows

DAMPING = 1e-6


def two_streams(g: int, n: int, k: int, seed: int = 0, noise: float = 0.2) -> tuple[Floats, Floats]:
    """Return inputs of a float network, and shrunk, noisy ones of a quantized network."""
    exact = rows(g, n, k, seed, correlation=0.6)
    rng = np.random.default_rng([seed, 11])
    return exact, (0.8 * exact + noise * rng.normal(size=exact.shape)).astype(np.float32)


def from_the_paper(
    weight: Floats, float_rows: Floats, quantized: Floats, grid: Grid, order: np.ndarray, start: Floats | None = None
) -> Codes:
    """Alternate the two steps on rows, each as a problem of least squares: no moments, no Cholesky factor."""
    low, high = code_range(grid.bits)
    scale, zero = (part.astype(np.float64) for part in grid.spread(weight.shape[2]))
    codes = np.zeros(weight.shape, np.int8)
    for g, o in np.ndindex(*weight.shape[:2]):
        x, y = float_rows[g].astype(np.float64), quantized[g].astype(np.float64)
        w = weight[g, o].astype(np.float64)
        wanted = x @ w + (0 if start is None else start[g, :, o].astype(np.float64))
        for position, t in enumerate(order[g]):
            later = order[g, position + 1 :]
            wanted_here = wanted - y[:, later] @ w[later]
            ideal = wanted_here @ y[:, t] / (y[:, t] @ y[:, t])
            code = np.clip(np.rint(ideal / scale[g, o, t]) + zero[g, o, t], low, high)
            codes[g, o, t] = code
            wanted = wanted - (code - zero[g, o, t]) * scale[g, o, t] * y[:, t]
            w[later] = np.linalg.lstsq(y[:, later], wanted, rcond=None)[0]
    return codes


def of_streams(quantized: Floats, float_rows: Floats, added: Floats | None = None) -> Moments:
    total = MomentsAccumulator(quantized.shape[0], quantized.shape[2], cross=True)
    total.update(quantized, float_rows - quantized, added)
    return total.moments()


@pytest.mark.parametrize("added", [False, True], ids=["alone", "added"])
@pytest.mark.parametrize("act_order", [True, False], ids=["act_order", "in_order"])
@pytest.mark.parametrize(("bits", "symmetric", "block_size"), [(2, True, None), (3, False, None), (4, True, 5)])
def test_codes_are_those_of_the_papers_steps(
    bits: int, symmetric: bool, block_size: int | None, act_order: bool, added: bool
) -> None:
    float_rows, quantized = two_streams(2, 120, 14)
    weight = normal(2, 15, 14)
    residual = np.random.default_rng(3).normal(size=(2, 120, 15)).astype(np.float32) if added else None
    moments = of_streams(quantized, float_rows, residual)
    result = qronos(weight, moments, GridForm(bits, block_size, symmetric), damping=DAMPING, act_order=act_order)
    order = rounding_order(moments, act_order)
    expected = from_the_paper(weight, float_rows, quantized, result.grid, order, residual)
    assert result.codes.dtype == np.int8
    assert result.damping == DAMPING
    assert (result.codes != expected).any(axis=2).mean() <= 0.05  # a tie in float32
    for wrong in (replace(moments, cross=None), replace(moments, cross=np.float32(0.5) * np.array(moments.cross))):
        other = qronos(weight, wrong, GridForm(bits, block_size, symmetric), damping=DAMPING, act_order=act_order)
        assert (other.codes != expected).any(axis=2).mean() > 0.15


@settings(max_examples=60, deadline=None)
@given(
    k=st.integers(1, 5),
    bits=st.integers(2, 4),
    symmetric=st.booleans(),
    act_order=st.booleans(),
    damping=st.sampled_from([1e-6, 0.05, 1.0]),
    seed=st.integers(0, 10_000),
)
def test_the_first_code_is_the_best_of_the_grid(
    k: int, bits: int, symmetric: bool, act_order: bool, damping: float, seed: int
) -> None:
    """Every code is tried on the rows, with the weights that follow as they are. No other code has a smaller error."""
    float_rows, quantized = two_streams(1, 40, k, seed)
    weight = normal(1, 3, k, seed)
    moments = of_streams(quantized, float_rows)
    result = qronos(weight, moments, GridForm(bits, symmetric=symmetric), damping=damping, act_order=act_order)
    first, *later = rounding_order(moments, act_order)[0]
    x, y = float_rows[0].astype(np.float64), quantized[0].astype(np.float64)
    low, high = code_range(bits)
    scale, zero = result.grid.spread(k)
    for row in range(3):
        wanted = x @ weight[0, row] - y[:, later] @ weight[0, row, later]
        levels = (np.arange(low, high + 1) - int(zero[0, row, first])) * float(scale[0, row, first])
        errors = np.square(wanted[:, None] - y[:, [first]] * levels).sum(axis=0)
        assert errors[result.codes[0, row, first] - low] <= errors.min() * (1 + 1e-5)


@pytest.mark.parametrize("act_order", [True, False], ids=["act_order", "in_order"])
@pytest.mark.parametrize("damping", [1e-4, 0.05, 1.0])
@pytest.mark.parametrize("same", ["none", "equal"])
def test_with_the_same_inputs_it_is_gptq(same: str, damping: float, act_order: bool) -> None:
    x = rows(2, 300, 20)
    weight, moments = normal(2, 9, 20), moments_of(x) if same == "none" else moments_of(x, x)
    for form in (GridForm(4), GridForm(3, 8), GridForm(2, symmetric=False), GridForm(3, 5, two_level=True)):
        actual = qronos(weight, moments, form, damping=damping, act_order=act_order)
        expected = gptq(weight, moments, form, damping=damping, act_order=act_order)
        np.testing.assert_array_equal(actual.codes, expected.codes)
        np.testing.assert_array_equal(actual.grid.scale, expected.grid.scale)
        assert actual.damping == expected.damping


@pytest.mark.parametrize("damping", [1e-4, 0.05, 1.0])
def test_only_the_first_code_differs_from_gptq_on_the_asymmetric_target(damping: float) -> None:
    """Rows with the same first code have the same codes."""
    float_rows, quantized = two_streams(2, 300, 16)
    weight, moments = normal(2, 200, 16), of_streams(quantized, float_rows)
    target = asymmetric_target(weight, moments, damping)
    order = rounding_order(moments, act_order=True)
    actual = qronos(weight, moments, GridForm(4), damping=damping)
    other = gptq(target, moments, GridForm(4), damping=damping)
    np.testing.assert_allclose(actual.grid.scale, other.grid.scale, rtol=1e-5)
    at = np.broadcast_to(order[:, None, :1], (2, 200, 1))
    same = (np.take_along_axis(actual.codes, at, 2) == np.take_along_axis(other.codes, at, 2))[:, :, 0]
    assert 0.05 < same.mean() < 0.95
    assert (actual.codes[same] != other.codes[same]).any(axis=1).mean() < 0.05  # a tie in float32


@settings(max_examples=40, deadline=None)
@given(bits=st.integers(2, 8), damping=st.floats(1e-4, 1), outputs=st.integers(1, 6), seed=st.integers(0, 10_000))
def test_one_input_is_rounded_to_nearest(bits: int, damping: float, outputs: int, seed: int) -> None:
    weight = normal(2, outputs, 1, seed)
    result = qronos(weight, moments_of(rows(2, 30, 1, seed)), GridForm(bits), damping=damping)
    np.testing.assert_array_equal(result.codes, result.grid.codes(weight))


def test_dead_inputs_are_rounded_to_nearest() -> None:
    float_rows, quantized = two_streams(1, 100, 12)
    quantized[:, :, [0, 7]] = 0
    weight, moments = normal(1, 8, 12), of_streams(quantized, float_rows)
    for act_order in (True, False):  # in their own order, the first input is dead
        result = qronos(weight, moments, GridForm(4), act_order=act_order)
        np.testing.assert_array_equal(result.codes[:, :, [0, 7]], result.grid.codes(weight)[:, :, [0, 7]])


def test_a_bad_hessian_raises_the_damping_or_is_refused() -> None:
    weight, zero = normal(1, 4, 3), np.zeros((1, 3), np.float32)
    basis = np.linalg.qr(normal(1, 3, 3)[0])[0]

    def of(smallest: float) -> Moments:
        hessian = (basis * np.array([smallest, 1, 1])) @ basis.T
        return Moments(hessian[None].astype(np.float32), None, zero, zero, 1)

    assert qronos(weight, of(-0.1), GridForm(4), damping=0.01).damping > 0.1
    for bad in (of(-5), of(np.nan)):
        with pytest.raises(np.linalg.LinAlgError):
            qronos(weight, bad, GridForm(4))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_errors_are_below_those_of_round_to_nearest_and_of_gptq_on_the_weight(bits: int) -> None:
    """The mean of eight weights, measured on the rows of both networks."""
    errors = []
    for seed in range(8):
        float_rows, quantized = two_streams(1, 600, 24, seed, noise=0.05)
        weight, moments = normal(1, 16, 24, seed), of_streams(quantized, float_rows)
        own, plain = qronos(weight, moments, GridForm(bits)), gptq(weight, moments, GridForm(bits))
        exact = float_rows @ weight.transpose(0, 2, 1)
        values = (
            own.grid.values(own.codes),
            plain.grid.values(plain.codes),
            plain.grid.values(plain.grid.codes(weight)),
        )
        errors.append([np.square(exact - quantized @ each.transpose(0, 2, 1)).mean() for each in values])
    corrected, uncorrected, nearest = np.mean(errors, axis=0)
    assert corrected < 0.8 * uncorrected
    assert corrected < 0.6 * nearest


def test_the_scales_are_searched_for_the_target() -> None:
    float_rows, quantized = two_streams(1, 300, 16)
    weight, moments = normal(1, 8, 16), of_streams(quantized, float_rows)
    order = rounding_order(moments, act_order=True)
    importance = importance_of(inverse_factor(permuted(moments.hessian, order), 0.01)[0].astype(np.float32), order)
    expected = GridForm(3).grid(asymmetric_target(weight, moments, 0.01), importance)
    np.testing.assert_allclose(qronos(weight, moments, GridForm(3)).grid.scale, expected.scale, rtol=1e-4)


def test_arguments_are_not_changed_and_scales_are_not_below_the_smallest() -> None:
    float_rows, quantized = two_streams(1, 50, 6)
    weight, moments = normal(1, 3, 6), of_streams(quantized, float_rows)
    assert moments.cross is not None
    arrays = (weight, moments.hessian, moments.cross)
    before = [array.copy() for array in arrays]
    result = qronos(weight, moments, GridForm(4), min_scale=np.full((1, 3), 0.7, np.float32))
    assert result.grid.scale.min() >= np.float32(0.7)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)
