"""The asymmetric target, compared with least squares on the rows, on held-out rows, and after rounding."""

import dataclasses

import numpy as np
import pytest

from passes.numerics.asymmetric_target import HELD_OUT_DAMPINGS, asymmetric_target, held_out_damping
from passes.numerics.gptq import gptq
from passes.numerics.grid import Floats
from passes.numerics.moments import Moments, MomentsAccumulator
from passes.numerics.weight_grid import GridForm
from tests.support.arrays import moments_of, normal


def streams(g: int, n: int, k: int, seed: int = 0, noise: float = 0.1) -> tuple[Floats, Floats]:
    """Return float rows, and quantized rows that are shrunk, mixed and noisy."""
    rng = np.random.default_rng([seed, 9])
    mixing = rng.normal(0, 0.15 / np.sqrt(k), (g, k, k))
    float_rows = rng.normal(size=(g, n, k))
    for j in range(1, k):  # neighbours are correlated, as in a convolution
        float_rows[:, :, j] = 0.9 * float_rows[:, :, j - 1] + np.sqrt(1 - 0.9**2) * float_rows[:, :, j]
    float_rows = float_rows * rng.lognormal(0, 0.5, (g, 1, k))
    quantized = 0.9 * float_rows + float_rows @ mixing + rng.normal(0, noise, float_rows.shape)
    return float_rows.astype(np.float32), quantized.astype(np.float32)


def in_halves(quantized: Floats, float_rows: Floats) -> Moments:
    middle = quantized.shape[1] // 2
    first, second = (
        moments_of(quantized[:, part], float_rows[:, part]) for part in (slice(middle), slice(middle, None))
    )
    return Moments.joined(first, second)


def error(weight: Floats, float_rows: Floats, target: Floats, quantized: Floats) -> float:
    difference = float_rows @ weight.transpose(0, 2, 1) - quantized @ target.transpose(0, 2, 1)
    return float(np.square(difference, dtype=np.float64).mean())


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("damping", [None, 0.01, 1.0])
def test_without_cross_moments_the_target_is_the_weight(groups: int, damping: float | None) -> None:
    float_rows, _ = streams(groups, 200, 12)
    weight = normal(groups, 6, 12)
    one_stream = Moments.joined(moments_of(float_rows[:, :90]), moments_of(float_rows[:, 90:]))
    assert one_stream.halves is not None
    for moments in (
        moments_of(float_rows),
        one_stream,
        moments_of(float_rows, float_rows),
        in_halves(float_rows, float_rows),
    ):
        np.testing.assert_array_equal(asymmetric_target(weight, moments, damping), weight)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("damping", [None, 0.01, 0.3, 10.0])
def test_it_is_the_damped_least_squares_answer(groups: int, damping: float | None) -> None:
    """Compare with ridge regression of W(x - x̂) on x̂, as least squares with appended rows, without normal equations."""
    n, k = 300, 10
    float_rows, quantized = streams(groups, n, k)
    weight = normal(groups, 5, k)
    actual = asymmetric_target(weight, moments_of(quantized, float_rows), damping)
    assert actual.shape == weight.shape
    assert actual.dtype == np.float32
    for g in range(groups):
        x, y = float_rows[g].astype(np.float64), quantized[g].astype(np.float64)
        ridge = np.sqrt((0.01 if damping is None else damping) * np.square(y).sum() / k)
        rows = np.concatenate([y, ridge * np.eye(k)])
        wanted = np.concatenate([(x - y) @ weight[g].T, np.zeros((k, 5))])
        expected = weight[g] + np.linalg.lstsq(rows, wanted, rcond=None)[0].T
        assert np.abs(actual[g] - expected).max() < 1e-4 * np.abs(expected).max()
        assert np.abs(weight[g] - expected).max() > 0.01 * np.abs(expected).max()


def test_groups_are_solved_each_on_its_own() -> None:
    float_rows, quantized = streams(4, 300, 9)
    float_rows[2] *= 100  # a group with large inputs does not affect the others
    quantized[2] *= 100
    weight = normal(4, 6, 9)
    together = asymmetric_target(weight, moments_of(quantized, float_rows), 0.03)
    for g in range(4):
        part = slice(g, g + 1)
        alone = asymmetric_target(weight[part], moments_of(quantized[part], float_rows[part]), 0.03)
        np.testing.assert_allclose(together[part], alone, rtol=1e-4, atol=1e-5)


def test_inputs_that_are_all_dead_leave_the_weight() -> None:
    zero = np.zeros((1, 50, 4), np.float32)
    weight = normal(1, 3, 4)
    np.testing.assert_array_equal(asymmetric_target(weight, moments_of(zero, zero)), weight)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_it_lowers_the_error_after_rounding(bits: int) -> None:
    float_rows, quantized = streams(1, 2000, 32)
    weight, moments = normal(1, 24, 32), in_halves(quantized, float_rows)
    errors = []
    for target in (asymmetric_target(weight, moments), weight):
        result = gptq(target, moments, GridForm(bits))
        errors.append(error(weight, float_rows, result.grid.values(result.codes), quantized))
    assert errors[0] < 0.4 * errors[1]


@pytest.mark.parametrize("groups", [1, 2])
def test_many_rows_of_an_exact_relation_get_the_least_damping(groups: int) -> None:
    float_rows, quantized = streams(groups, 4000, 16, noise=0.0)
    halves = in_halves(quantized, float_rows).halves
    assert halves is not None
    assert held_out_damping(normal(groups, 8, 16), halves, HELD_OUT_DAMPINGS) == HELD_OUT_DAMPINGS[0]


@pytest.mark.parametrize("seed", range(3))
def test_few_noisy_rows_get_much_damping(seed: int) -> None:
    """X - X̂ is independent of X̂, so what is fitted to one half is wrong on the other."""
    rng = np.random.default_rng(seed)
    quantized = rng.normal(size=(1, 40, 32)).astype(np.float32)
    float_rows = (quantized + rng.normal(size=quantized.shape)).astype(np.float32)
    moments, weight = in_halves(quantized, float_rows), normal(1, 8, 32)
    assert moments.halves is not None
    assert held_out_damping(weight, moments.halves, HELD_OUT_DAMPINGS) >= 3
    result = asymmetric_target(weight, moments) - weight
    reckless = asymmetric_target(weight, moments, 0.01) - weight
    assert np.square(result).sum() < 0.2 * np.square(reckless).sum()
    fresh = rng.normal(size=(1, 4000, 32)).astype(np.float32)
    unseen = (fresh + rng.normal(size=fresh.shape)).astype(np.float32)
    assert error(weight, unseen, weight + result, fresh) < error(weight, unseen, weight + reckless, fresh)


@pytest.mark.parametrize("noise", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("n", [40, 400])
def test_the_chosen_damping_is_best_on_the_held_out_rows(noise: float, n: int) -> None:
    float_rows, quantized = streams(1, n, 16, noise=noise)
    weight, moments = normal(1, 8, 16), in_halves(quantized, float_rows)
    assert moments.halves is not None
    first, second = slice(n // 2), slice(n // 2, None)
    measured = [
        sum(
            error(weight, float_rows[:, unseen], asymmetric_target(weight, fitted, damping), quantized[:, unseen])
            for fitted, unseen in zip(moments.halves, (second, first), strict=True)
        )
        for damping in HELD_OUT_DAMPINGS
    ]
    chosen = held_out_damping(weight, moments.halves, HELD_OUT_DAMPINGS)
    assert measured[HELD_OUT_DAMPINGS.index(chosen)] <= min(measured) * 1.001
    np.testing.assert_array_equal(asymmetric_target(weight, moments), asymmetric_target(weight, moments, chosen))


def test_refusals() -> None:
    float_rows, quantized = streams(1, 40, 4)
    weight = normal(1, 3, 4)
    halves = in_halves(quantized, float_rows).halves
    assert halves is not None
    with pytest.raises(ValueError, match="no candidates for the damping"):
        held_out_damping(weight, halves, ())
    with pytest.raises(ValueError, match="no cross moments"):
        held_out_damping(weight, (halves[0], moments_of(quantized)), (0.01,))
    indefinite = np.eye(4, dtype=np.float32)[None].copy()
    indefinite[0, 0, 1] = indefinite[0, 1, 0] = 5
    zero = np.zeros((1, 4), np.float32)
    with pytest.raises(np.linalg.LinAlgError):
        asymmetric_target(weight, Moments(indefinite, indefinite, zero, zero, 10), 0.01)


def indefinite(moments: Moments, depth: float) -> Moments:
    """Return the moments with a Hessian that is positive definite only with a damping above ``depth``."""
    k = moments.hessian.shape[1]
    values, vectors = np.linalg.eigh(moments.hessian.astype(np.float64))
    values[:, 0] = -depth * (values[:, 1:].sum(axis=1)) / (k + depth)  # depth times the mean of the diagonal
    hessian = np.einsum("gij,gj,gkj->gik", vectors, values, vectors).astype(np.float32)
    return dataclasses.replace(moments, hessian=hessian)


@pytest.mark.parametrize("groups", [1, 3])
def test_a_damping_that_leaves_the_hessian_indefinite_is_skipped(groups: int) -> None:
    float_rows, quantized = streams(
        groups, 4000, 16, noise=0.0
    )  # cross-validation alone would choose the least damping
    weight, moments = normal(groups, 8, 16), in_halves(quantized, float_rows)
    assert moments.halves is not None
    bent = (indefinite(moments.halves[0], 0.05), moments.halves[1])
    assert held_out_damping(weight, bent, HELD_OUT_DAMPINGS) == 0.1
    with pytest.raises(np.linalg.LinAlgError):
        held_out_damping(weight, bent, (0.01,))
    result = asymmetric_target(weight, dataclasses.replace(moments, halves=bent))
    np.testing.assert_array_equal(result, asymmetric_target(weight, moments, 0.1))
    whole = indefinite(dataclasses.replace(moments, halves=None), 0.05)
    np.testing.assert_array_equal(asymmetric_target(weight, whole), asymmetric_target(weight, whole, 0.1))


@pytest.mark.parametrize("groups", [1, 3])
def test_no_damping_left_is_an_error(groups: int) -> None:
    float_rows, quantized = streams(groups, 400, 6)
    weight, moments = normal(groups, 4, 6), moments_of(quantized, float_rows)
    bad = dataclasses.replace(moments, hessian=-moments.hessian * 2000)
    with pytest.raises(np.linalg.LinAlgError, match="with damping 10"):
        asymmetric_target(weight, bad)
    with pytest.raises(np.linalg.LinAlgError, match="halves not positive definite with damping 10"):
        asymmetric_target(weight, dataclasses.replace(moments, halves=(bad, moments)))


def test_arguments_are_left_alone() -> None:
    float_rows, quantized = streams(2, 100, 6)
    weight, moments = normal(2, 3, 6), moments_of(quantized, float_rows)
    assert moments.cross is not None
    before = [array.copy() for array in (weight, moments.hessian, moments.cross)]
    asymmetric_target(weight, moments)
    for array, copy in zip((weight, moments.hessian, moments.cross), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("centered", [False, True])
def test_it_compensates_for_a_tensor_added_to_the_output(groups: int, centered: bool) -> None:
    """Compare with least squares of W(x - x̂) + s - ŝ on x̂, or of centred rows if moments are centred."""
    n, k, o = 300, 10, 5
    float_rows, quantized = streams(groups, n, k)
    weight = normal(groups, o, k)
    added = quantized @ normal(groups, k, o, seed=4) * np.float32(0.1) + np.float32(0.3)  # [g, n, o]
    total = MomentsAccumulator(groups, k, cross=True)
    for part in (slice(100), slice(100, n)):
        total.update(quantized[:, part], (float_rows - quantized)[:, part], added[:, part])
    moments = total.moments()
    assert moments.mean_residual is not None
    np.testing.assert_allclose(moments.mean_residual, added.mean(axis=1), rtol=1e-4)
    actual = asymmetric_target(weight, moments.centered() if centered else moments, 0.01)
    for g in range(groups):
        x, y, s = (stream[g].astype(np.float64) for stream in (float_rows, quantized, added))
        if centered:
            x, y, s = (stream - stream.mean(axis=0) for stream in (x, y, s))
        ridge = np.sqrt(0.01 * np.square(y).sum() / k)
        wanted = np.concatenate([(x - y) @ weight[g].T + s, np.zeros((k, o))])
        expected = weight[g] + np.linalg.lstsq(np.concatenate([y, ridge * np.eye(k)]), wanted, rcond=None)[0].T
        assert np.abs(actual[g] - expected).max() < 1e-3 * np.abs(expected).max()


def test_the_chosen_damping_depends_on_the_added_tensor() -> None:
    """A fit to noise in the output of one half does not help on the other, so the damping grows."""
    float_rows, quantized = streams(1, 60, 20, noise=0.01)
    weight = normal(1, 6, 20)
    noise = np.random.default_rng(5).normal(0, 30, (1, 60, 6)).astype(np.float32)
    chosen = []
    for added in (np.zeros_like(noise), noise):
        halves = []
        for part in (slice(30), slice(30, 60)):
            total = MomentsAccumulator(1, 20, cross=True)
            total.update(quantized[:, part], (float_rows - quantized)[:, part], added[:, part])
            halves.append(total.moments())
        chosen.append(held_out_damping(weight, (halves[0], halves[1]), HELD_OUT_DAMPINGS))
    assert chosen[1] > chosen[0]


@pytest.mark.parametrize("noise", [0.02, 0.3, 2.0])
@pytest.mark.parametrize("rows", [60, 400])
def test_the_damping_is_the_one_of_least_loss(rows: int, noise: float) -> None:
    """The search starts at the second candidate. It finds what each candidate alone would show."""
    float_rows, quantized = streams(1, rows, 24, noise=noise)
    weight = normal(1, 8, 24)
    halves = in_halves(quantized, float_rows).halves
    assert halves is not None

    def loss(damping: float) -> float:
        total = 0.0
        for fitted, unseen in (halves, halves[::-1]):
            change = asymmetric_target(weight, fitted, damping) - weight
            assert unseen.cross is not None
            total += float((change @ unseen.hessian * change - 2 * change * (weight @ unseen.cross)).sum())
        return total

    assert held_out_damping(weight, halves, HELD_OUT_DAMPINGS) == min(HELD_OUT_DAMPINGS, key=loss)


def test_the_weight_itself_is_the_target_where_every_fit_is_worse() -> None:
    """Errors of the halves that have nothing in common: whatever is fitted to one hurts on the other."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 40, 24)).astype(np.float32)
    error = rng.normal(size=(1, 40, 24)).astype(np.float32) * np.float32(3)
    first, second = moments_of(x, x + error), moments_of(x, x - error)
    weight = normal(1, 8, 24)
    moments = Moments.joined(first, second)
    assert held_out_damping(weight, (first, second), HELD_OUT_DAMPINGS) == np.inf
    np.testing.assert_array_equal(asymmetric_target(weight, moments), weight)
