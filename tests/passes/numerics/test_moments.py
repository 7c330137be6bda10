"""Second moments: batches give the same 2/n XᵀX, cross moments and means as all rows at once."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.numerics.grid import Floats
from passes.numerics.moments import Moments, MomentsAccumulator

TOLERANCE = 1e-5  # of float32 sums, relative to the largest entry


def draw(groups: int, n: int, k: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Return float rows that are not centred, and quantized rows with noise and a bias."""
    rng = np.random.default_rng(seed)
    float_rows = rng.normal(0.5, 1.0, (groups, n, k))
    quantized = float_rows + rng.normal(0.1, 0.2, float_rows.shape)
    return float_rows.astype(np.float32), quantized.astype(np.float32)


def stream(float_rows: Floats, quantized: Floats, cuts: list[int]) -> Moments:
    total = MomentsAccumulator(float_rows.shape[0], float_rows.shape[2], cross=True)
    for start, stop in zip([0, *cuts], [*cuts, float_rows.shape[1]], strict=True):
        part = slice(start, stop)
        total.update(quantized[:, part], float_rows[:, part] - quantized[:, part])
    return total.moments()


def assert_close(actual: Floats | None, expected: np.ndarray) -> None:
    assert actual is not None
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= TOLERANCE * max(np.abs(expected).max(), 1e-30)


@pytest.mark.parametrize("groups", [1, 3])
def test_moments_are_their_formulas(groups: int) -> None:
    float_rows, quantized = draw(groups, 50, 6)
    actual = stream(float_rows, quantized, [])
    for g in range(groups):
        x, y = float_rows[g].astype(np.float64), quantized[g].astype(np.float64)
        assert_close(actual.hessian[g], 2 / 50 * y.T @ y)
        assert actual.cross is not None
        assert_close(actual.cross[g], 2 / 50 * (x - y).T @ y)
        assert_close(actual.mean[g], x.mean(axis=0))
        assert_close(actual.mean_quantized[g], y.mean(axis=0))
    assert actual.rows == 50
    assert actual.hessian.shape == (groups, 6, 6)


def test_cross_is_not_its_transpose() -> None:
    float_rows, quantized = draw(1, 50, 6)
    cross = stream(float_rows, quantized, []).cross
    assert cross is not None
    assert np.abs(cross - cross.transpose(0, 2, 1)).max() > 0.01 * np.abs(cross).max()


@given(
    groups=st.integers(1, 3),
    n=st.integers(1, 40),
    k=st.integers(1, 9),
    fractions=st.lists(st.floats(0, 1), max_size=5),
    seed=st.integers(0, 1000),
)
def test_batchwise_is_one_shot(groups: int, n: int, k: int, fractions: list[float], seed: int) -> None:
    float_rows, quantized = draw(groups, n, k, seed)
    whole = stream(float_rows, quantized, [])
    parts = stream(float_rows, quantized, sorted(int(fraction * n) for fraction in fractions))  # some batches are empty
    assert parts.rows == whole.rows == n
    assert whole.cross is not None
    assert_close(parts.hessian, whole.hessian)
    assert_close(parts.cross, whole.cross)
    assert_close(parts.mean, whole.mean)
    assert_close(parts.mean_quantized, whole.mean_quantized)


def test_without_cross_moments_both_means_are_of_the_same_rows() -> None:
    _, rows = draw(2, 30, 4)
    total = MomentsAccumulator(2, 4, cross=False)
    total.update(rows)
    actual = total.moments()
    assert actual.cross is None
    np.testing.assert_array_equal(actual.mean, actual.mean_quantized)
    assert_close(actual.mean, rows.mean(axis=1, dtype=np.float64))


@pytest.mark.parametrize("groups", [1, 3])
def test_centered_moments_are_those_of_centered_rows(groups: int) -> None:
    float_rows, quantized = draw(groups, 50, 6)
    actual = stream(float_rows, quantized, [20]).centered()
    difference = (float_rows - quantized).astype(np.float64)
    difference -= difference.mean(axis=1, keepdims=True)
    rows = quantized.astype(np.float64) - quantized.mean(axis=1, keepdims=True, dtype=np.float64)
    assert_close(actual.hessian, 2 / 50 * rows.transpose(0, 2, 1) @ rows)
    assert_close(actual.cross, 2 / 50 * difference.transpose(0, 2, 1) @ rows)
    assert_close(actual.mean, float_rows.mean(axis=1, dtype=np.float64))
    assert_close(actual.mean_quantized, quantized.mean(axis=1, dtype=np.float64))
    assert actual.rows == 50


def shifted(float_rows: Floats, quantized: Floats, cuts: list[int], added: Floats | None = None) -> Moments:
    """Sum about the mean of the first batch, as sequential calibration does."""
    total = MomentsAccumulator(float_rows.shape[0], float_rows.shape[2], cross=True, shifted=True)
    for start, stop in zip([0, *cuts], [*cuts, float_rows.shape[1]], strict=True):
        part = slice(start, stop)
        more = None if added is None else added[:, part]
        total.update(quantized[:, part], float_rows[:, part] - quantized[:, part], more)
    return total.moments()


def centered_formula(rows: Floats, others: Floats) -> np.ndarray:
    left, right = (values - values.mean(axis=1, keepdims=True, dtype=np.float64) for values in (rows, others))
    expected: np.ndarray = 2 / rows.shape[1] * left.transpose(0, 2, 1) @ right
    return expected


@pytest.mark.parametrize("mean", [0.0, 100.0, 3000.0])
@pytest.mark.parametrize("halves", [False, True])
def test_a_large_mean_does_not_hide_the_variance(mean: float, halves: bool) -> None:
    """For rows around 3,000, sums about zero are 10⁷ times the variance, and float32 has seven digits."""
    float_rows, quantized = (rows + np.float32(mean) for rows in draw(2, 400, 6))
    added = draw(2, 400, 3, seed=4)[0]
    if halves:
        first, second = (
            shifted(float_rows[:, part], quantized[:, part], [30], added[:, part])
            for part in (slice(150), slice(150, 400))
        )
        actual = Moments.joined(first, second)
    else:
        actual = shifted(float_rows, quantized, [30, 200], added)
    centered = actual.centered()
    tolerance = TOLERANCE * (1 + mean / 100)  # the means themselves are float32
    size = float(centered.hessian.max())
    for part, rows in (
        (centered.hessian, quantized),
        (centered.cross, float_rows - quantized),
        (centered.residual, added),
    ):
        assert part is not None
        assert np.abs(part - centered_formula(rows, quantized)).max() < tolerance * size
    assert np.linalg.eigvalsh(centered.hessian.astype(np.float64)).min() > 0
    if mean:
        about_zero = stream(float_rows, quantized, [30, 200]).centered().hessian
        assert np.abs(about_zero - centered.hessian).max() > 10 * tolerance * size


def test_shifted_sums_moved_back_are_the_plain_ones() -> None:
    float_rows, quantized = draw(2, 60, 5)
    plain, actual = stream(float_rows, quantized, [20]), shifted(float_rows, quantized, [20])
    assert actual.origin is not None
    assert np.abs(actual.hessian - plain.hessian).max() > 0.1
    back = actual.about(None)
    assert back.origin is None
    assert plain.cross is not None
    assert_close(back.hessian, plain.hessian)
    assert_close(back.cross, plain.cross)
    factors = np.linspace(0.5, 3, 10).reshape(2, 5)
    assert_close(actual.rescaled(factors).about(None).hessian, plain.rescaled(factors).hessian)
    parts = [shifted(float_rows[:, part], quantized[:, part], []) for part in (slice(25), slice(25, 60))]
    joined = Moments.joined(parts[0], parts[1]).about(None)
    assert_close(joined.hessian, plain.hessian)
    assert_close(joined.cross, plain.cross)
    assert joined.halves is not None
    assert_close(joined.halves[1].hessian, stream(float_rows[:, 25:], quantized[:, 25:], []).hessian)


@pytest.mark.parametrize("cut", [10, 37])
def test_joined_moments_are_those_of_all_rows_and_keep_the_halves(cut: int) -> None:
    float_rows, quantized = draw(2, 50, 6)
    first = stream(float_rows[:, :cut], quantized[:, :cut], [])
    second = stream(float_rows[:, cut:], quantized[:, cut:], [])
    whole, joined = stream(float_rows, quantized, []), Moments.joined(first, second)
    assert whole.cross is not None
    assert_close(joined.hessian, whole.hessian)
    assert_close(joined.cross, whole.cross)
    assert_close(joined.mean, whole.mean)
    assert_close(joined.mean_quantized, whole.mean_quantized)
    assert joined.rows == 50
    assert joined.halves is not None
    assert joined.halves[0] is first
    assert joined.halves[1] is second


def test_the_hessian_is_symmetric_and_the_diagonal_twice_the_mean_square() -> None:
    float_rows, quantized = draw(3, 40, 5)
    actual = stream(float_rows, quantized, [7])
    np.testing.assert_allclose(actual.hessian, actual.hessian.transpose(0, 2, 1), rtol=1e-5, atol=1e-6)
    assert_close(actual.diagonal, 2 * np.square(quantized, dtype=np.float64).mean(axis=1))


def test_moments_can_be_read_and_added_to() -> None:
    float_rows, quantized = draw(1, 20, 3)
    total = MomentsAccumulator(1, 3, cross=False)
    total.update(quantized[:, :10])
    half = total.moments()
    before = half.hessian.copy()
    total.update(quantized[:, 10:])
    np.testing.assert_array_equal(half.hessian, before)
    assert_close(total.moments().hessian, 2 / 20 * np.einsum("gni,gnj->gij", quantized, quantized, dtype=np.float64))
    assert float_rows.shape == quantized.shape


def test_batches_are_not_stored() -> None:
    float_rows, quantized = draw(1, 20, 3)
    difference = float_rows - quantized
    total = MomentsAccumulator(1, 3, cross=True)
    total.update(quantized, difference)
    alive = [weakref.ref(quantized), weakref.ref(difference)]
    del float_rows, quantized, difference
    assert [reference() for reference in alive] == [None, None]


@pytest.mark.parametrize("rows", [None, 0])
def test_no_rows_are_refused(rows: int | None) -> None:
    total = MomentsAccumulator(1, 3, cross=False)
    if rows is not None:
        total.update(np.empty((1, rows, 3), np.float32))
    with pytest.raises(ValueError, match="no rows were collected"):
        total.moments()


@given(seed=st.integers(0, 2**32 - 1), groups=st.integers(1, 3))
def test_rescaled_moments_are_those_of_rescaled_rows(seed: int, groups: int) -> None:
    float_rows, quantized = draw(groups, 60, 4, seed)
    residual = draw(groups, 60, 2, seed + 1)[0]
    factors = np.exp(np.random.default_rng(seed).uniform(-3, 3, (groups, 4)))

    def collected(scale: np.ndarray) -> Moments:
        halves = []
        for part in (slice(0, 25), slice(25, 60)):
            total = MomentsAccumulator(groups, 4, cross=True)
            x, x_hat = ((rows[:, part] * scale[:, None, :]).astype(np.float32) for rows in (float_rows, quantized))
            total.update(x_hat, x - x_hat, residual[:, part])
            halves.append(total.moments())
        return Moments.joined(*halves)

    actual, expected = collected(np.ones((groups, 4))).rescaled(factors), collected(factors)
    assert actual.halves is not None
    assert expected.halves is not None
    for one, other in ((actual, expected), *zip(actual.halves, expected.halves, strict=True)):
        assert one.rows == other.rows
        for name in ("hessian", "cross", "mean", "mean_quantized", "residual", "mean_residual"):
            value = getattr(other, name)
            assert np.abs(getattr(one, name) - value).max() <= 1e-4 * np.abs(value).max(), name


def test_pooled_moments_are_those_of_all_rows() -> None:
    """Rows of another reader of the weight, whose inputs have no errors before them."""
    draw = np.random.default_rng(7)
    rows = [
        draw.standard_normal((1, n, 5)).astype(np.float32) + shift for n, shift in ((40, 3.0), (24, -1.0), (36, 0.5))
    ]
    differences = [draw.standard_normal(part.shape).astype(np.float32) * 0.1 for part in rows[:2]]
    halves = []
    for quantized, difference in zip(rows[:2], differences, strict=True):
        half = MomentsAccumulator(1, 5, cross=True, shifted=True)
        half.update(quantized, difference)
        halves.append(half.moments())
    other = MomentsAccumulator(1, 5, cross=False, shifted=True)
    other.update(rows[2])
    pooled = Moments.pooled(Moments.joined(*halves), other.moments())
    together = MomentsAccumulator(1, 5, cross=True)
    for quantized, difference in zip(rows, [*differences, np.zeros_like(rows[2])], strict=True):
        together.update(quantized, difference)
    expected, found = together.moments(), pooled.about(None)
    for name in ("hessian", "cross", "mean", "mean_quantized"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4)
    assert pooled.rows == 100
    assert pooled.halves is None  # the other rows were not separated


@pytest.mark.parametrize("cuts", [[], [20], [7, 30, 41]])
def test_errors_of_the_outputs_are_the_weight_times_cross_moments(cuts: list[int]) -> None:
    """A residual that has W (X - X̂) in it needs no cross moments."""
    float_rows, quantized = draw(2, 60, 5)
    weight: Floats = np.random.default_rng(3).normal(size=(2, 3, 5)).astype(np.float32)
    crossed = shifted(float_rows, quantized, cuts)
    total = MomentsAccumulator(2, 5, cross=False, shifted=True)
    for start, stop in zip([0, *cuts], [*cuts, 60], strict=True):
        part = np.s_[:, start:stop]
        errors: Floats = np.asarray((float_rows[part] - quantized[part]) @ weight.transpose(0, 2, 1), np.float32)
        total.update(quantized[part], None, errors)
    found = total.moments()
    assert crossed.cross is not None
    assert found.cross is None
    assert found.residual is not None
    assert found.mean_residual is not None
    assert_close(found.residual, weight @ crossed.cross)
    assert_close(found.mean_residual, np.einsum("gok,gk->go", weight, crossed.mean - crossed.mean_quantized))


def test_moments_of_halves_together_are_centred_as_those_of_all_rows() -> None:
    float_rows, quantized = draw(1, 70, 4)
    quantized[:, 30:] += 3  # the means of the halves differ
    whole = shifted(float_rows, quantized, []).centered()
    parts = [shifted(float_rows[:, part], quantized[:, part], []) for part in (slice(30), slice(30, 70))]
    joined = Moments.joined(parts[0], parts[1])
    assert joined.centered().hessian is joined.hessian  # no copy
    assert joined.cross is not None
    assert whole.cross is not None
    assert_close(joined.hessian, whole.hessian)
    assert_close(joined.cross, whole.cross)
    assert_close(joined.mean_quantized, whole.mean_quantized)


def test_the_symmetric_half_of_a_large_matrix() -> None:
    rows = np.random.default_rng(0).normal(size=(1, 40, 300)).astype(np.float32)  # more than one tile
    total = MomentsAccumulator(1, 300, cross=False)
    total.update(rows)
    assert_close(total.moments().hessian, 2 / 40 * rows.transpose(0, 2, 1) @ rows)


@pytest.mark.parametrize("order", ["rows", "columns"])
def test_joined_moments_of_many_inputs(order: str) -> None:
    """Large matrices are added part by part, whatever the order of their values in memory."""
    k = 300
    halves = []
    for seed in (1, 2):
        rows, _ = draw(2, 40, k, seed)
        total = MomentsAccumulator(2, k, cross=False)
        total.update(rows)
        moments = total.moments()
        if order == "columns":
            moments = replace(moments, hessian=np.asfortranarray(moments.hessian))
        halves.append(moments)
    joined = Moments.joined(*halves)
    np.testing.assert_allclose(joined.hessian, (halves[0].hessian + halves[1].hessian) / 2, rtol=1e-6, atol=1e-6)
