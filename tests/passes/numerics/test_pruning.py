"""Pruning of a layer, compared with dense solves, with the papers step by step, and with GPTQ."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.numerics.gptq import damped, gptq, output_error
from passes.numerics.grid import Floats
from passes.numerics.kept_weights import best_values
from passes.numerics.obs import exact_mask
from passes.numerics.pruning import Method, Pruning, prune, prune_and_round
from passes.numerics.sparse_sweep import swept_mask
from passes.numerics.sparsity import Mask, Sparsity, parse_pattern
from passes.numerics.weight_grid import GridForm
from tests.support.arrays import heavy_tailed, moments_of, normal, rows

DAMPING = 0.01
METHODS: tuple[Method, ...] = ("sweep", "exact", "magnitude")
HALF = Sparsity(0.5)


def problem(g: int, o: int, k: int, seed: int = 0, correlation: float = 0.9) -> tuple[Floats, Floats]:
    """Return a weight and a damped Hessian of correlated inputs."""
    return normal(g, o, k, seed), damped(moments_of(rows(g, 20 * k, k, seed, correlation)).hessian, DAMPING)


def solved(weight: Floats, kept: Mask, hessian: Floats) -> np.ndarray:
    """Return the values of least error, by one dense solve for each row: H_MM v_M = H_M: w."""
    values = np.zeros(weight.shape)
    for g, o in np.ndindex(*weight.shape[:2]):
        inside, h = kept[g, o], hessian[g].astype(np.float64)
        values[g, o, inside] = np.linalg.solve(h[np.ix_(inside, inside)], h[inside] @ weight[g, o])
    return values


def error(weight: Floats, values: np.ndarray, hessian: Floats) -> float:
    missed = weight.astype(np.float64) - values
    return float(np.einsum("gok,gkl,gol->", missed, hessian.astype(np.float64), missed))


@settings(max_examples=40)
@given(k=st.integers(2, 12), correlation=st.floats(0, 0.95), seed=st.integers(0, 10_000))
def test_one_removed_weight_is_the_optimum(k: int, correlation: float, seed: int) -> None:
    """OBS' closed forms: of all single weights, the one of least error goes, and the others take their best values."""
    weight, hessian = problem(1, 1, k, seed, correlation)
    kept, values = prune(weight, hessian, Pruning(Sparsity(1 / k), "exact"))
    assert (~kept).sum() == 1
    errors = []
    for place in range(k):
        mask = np.ones(weight.shape, np.bool_)
        mask[0, 0, place] = False
        errors.append(error(weight, solved(weight, mask, hessian), hessian))
    assert error(weight, solved(weight, kept, hessian), hessian) <= min(errors) * (1 + 1e-6) + 1e-12
    all_zero = error(weight, np.zeros(weight.shape), hessian)
    assert error(weight, values, hessian) <= min(errors) * 1.001 + 1e-6 * all_zero
    assert not values[~kept].any()


def from_the_paper(weight: Floats, hessian: Floats, count: int) -> Mask:
    """Run ExactOBS over all rows at once, with a new inverse of the remaining Hessian in every step."""
    kept, work = np.ones(weight.shape, np.bool_), weight.astype(np.float64)
    for _ in range(count):
        best, price = (0, 0, 0), np.inf
        inverses = {}
        for g, o in np.ndindex(*weight.shape[:2]):
            left = np.flatnonzero(kept[g, o])
            if not len(left):
                continue
            inverse = np.linalg.inv(hessian[g].astype(np.float64)[np.ix_(left, left)])
            costs = np.square(work[g, o, left]) / inverse.diagonal()
            inverses[g, o] = left, inverse
            if costs.min() < price:
                price, best = costs.min(), (g, o, int(costs.argmin()))
        g, o, at = best
        left, inverse = inverses[g, o]
        work[g, o, left] -= work[g, o, left[at]] / inverse[at, at] * inverse[at]
        kept[g, o, left[at]] = False
    return kept


def test_exact_masks_are_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hessian = problem(2, 3, 10)
    for share in (0.2, 0.5, 0.8):
        sparsity = Sparsity(share)
        mask = exact_mask(weight, hessian, sparsity)
        np.testing.assert_array_equal(mask, from_the_paper(weight, hessian, sparsity.removed(weight.size)))
        monkeypatch.setattr("passes.numerics.obs._WORKING_SET", 100)  # rows apart
        np.testing.assert_array_equal(exact_mask(weight, hessian, sparsity), mask)


@settings(max_examples=30)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(2, 16)),
    share=st.floats(0.1, 0.9),
    seed=st.integers(0, 10_000),
)
def test_values_are_those_of_a_dense_solve(shape: tuple[int, int, int], share: float, seed: int) -> None:
    weight, hessian = problem(*shape, seed)
    kept = np.random.default_rng(seed).random(shape) > share
    values = best_values(weight, kept, hessian, tolerance=1e-5)
    assert not values[~kept].any()
    best = error(weight, solved(weight, kept, hessian), hessian)
    assert error(weight, values, hessian) <= best * 1.001 + 1e-6


def test_values_with_all_weights_kept_are_the_weights() -> None:
    weight, hessian = problem(2, 3, 8)
    np.testing.assert_array_equal(best_values(weight, np.ones(weight.shape, np.bool_), hessian), weight)


def ratios(groups: tuple[int, int] | None, exchange: int, correlations: tuple[float, ...]) -> np.ndarray:
    """Return the errors of the sweep as multiples of those of ExactOBS, at 50 %."""
    found = []
    for seed, correlation in itertools.product(range(4), correlations):
        weight, hessian = problem(1, 16, 64, seed, correlation)
        sparsity = Sparsity(0.5, groups)
        errors = [
            error(weight, solved(weight, prune(weight, hessian, pruning)[0], hessian), hessian)
            for pruning in (Pruning(sparsity, "sweep", exchange), Pruning(sparsity, "exact"))
        ]
        found.append(errors[0] / errors[1])
    return np.array(found)


def test_the_sweep_is_as_good_as_exact_obs() -> None:
    actual = ratios(None, 30, (0.0, 0.5, 0.9))
    assert actual.mean() < 1.1
    assert ratios(None, 0, (0.9,)).mean() > actual.mean() + 0.05, "exchanging weights changes nothing"


def test_the_sweep_is_as_good_as_exact_obs_in_groups() -> None:
    assert ratios((2, 4), 30, (0.0, 0.5, 0.9)).mean() < 1.05


@settings(max_examples=40)
@given(
    method=st.sampled_from(METHODS),
    shape=st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 40)),
    share=st.floats(0, 0.95),
    seed=st.integers(0, 10_000),
)
def test_the_share_is_reached_exactly(method: Method, shape: tuple[int, int, int], share: float, seed: int) -> None:
    weight, hessian = problem(*shape, seed)
    kept, values = prune(weight, hessian, Pruning(Sparsity(share), method))
    assert np.count_nonzero(~kept) == round(share * weight.size)
    assert not values[~kept].any()


@settings(max_examples=40)
@given(
    method=st.sampled_from(METHODS),
    n_and_m=st.sampled_from([(2, 4), (1, 4), (3, 4), (1, 2), (4, 8)]),
    count=st.integers(1, 40),
    bits=st.sampled_from([4, 8]),
    seed=st.integers(0, 10_000),
)
def test_every_group_keeps_n_of_m(method: Method, n_and_m: tuple[int, int], count: int, bits: int, seed: int) -> None:
    n, m = n_and_m
    weight, moments = normal(2, 3, m * count, seed), moments_of(rows(2, 200, m * count, seed))
    order = np.random.default_rng(seed).permutation(m * count)
    pruning = Pruning(Sparsity(1 - n / m, n_and_m, order), method)
    result = prune_and_round(weight, moments, GridForm(bits), pruning=pruning, rounds=2, beam=4)
    assert result.kept is not None
    groups = result.kept[:, :, order].reshape(2, 3, count, m)
    assert (groups.sum(axis=3) == n).all()
    values = result.grid.values(result.codes)[:, :, order].reshape(groups.shape)
    assert (np.count_nonzero(values, axis=3) <= n).all()


FORMS = (
    GridForm(4),
    GridForm(8),
    GridForm(3, symmetric=False),
    GridForm(4, block_size=8),
    GridForm(4, block_size=8, two_level=True),
    GridForm(2, search=False),
)


@pytest.mark.parametrize("form", FORMS, ids=repr)
@pytest.mark.parametrize("beam", [1, 8])
@pytest.mark.parametrize("act_order", [True, False])
def test_without_removals_the_codes_are_gptqs(form: GridForm, beam: int, act_order: bool) -> None:
    weight, moments = heavy_tailed(2, 6, 24), moments_of(rows(2, 200, 24))
    for pruning in (Pruning(Sparsity(0)), Pruning(Sparsity(0), "exact"), Pruning(Sparsity(0), "magnitude")):
        pruned = prune_and_round(weight, moments, form, pruning=pruning, beam=beam, act_order=act_order, rounds=2)
        plain = gptq(weight, moments, form, beam=beam, act_order=act_order, rounds=2)
        np.testing.assert_array_equal(pruned.codes, plain.codes)
        np.testing.assert_array_equal(pruned.grid.scale, plain.grid.scale)


@pytest.mark.parametrize("form", FORMS, ids=repr)
@pytest.mark.parametrize("beam", [1, 8])
@pytest.mark.parametrize("method", METHODS)
def test_removed_weights_are_zero_on_every_grid(form: GridForm, beam: int, method: Method) -> None:
    weight, moments = heavy_tailed(2, 6, 24) + np.float32(0.8), moments_of(rows(2, 200, 24))
    result = prune_and_round(weight, moments, form, pruning=Pruning(HALF, method), beam=beam, rounds=3)
    assert result.kept is not None
    assert np.count_nonzero(~result.kept) == weight.size // 2
    assert not result.grid.values(result.codes)[~result.kept].any()
    if not form.symmetric:
        assert result.grid.zero_point.any()


def test_rounding_makes_up_for_what_was_removed() -> None:
    """With 8 bits, rounding adds next to nothing to the error of pruning. Weights that only become zero are worse."""
    weight, moments = normal(1, 16, 64), moments_of(rows(1, 2000, 64, correlation=0.8))
    best = error(weight, prune(weight, damped(moments.hessian, DAMPING), Pruning(HALF))[1], moments.hessian)
    scale = error(weight, np.zeros(weight.shape), moments.hessian)
    errors = {}
    for pruning in (Pruning(HALF), Pruning(HALF, "magnitude"), Pruning(HALF, "magnitude", make_up=False)):
        result = prune_and_round(weight, moments, GridForm(8), pruning=pruning, damping=DAMPING, rounds=2)
        errors[pruning] = output_error(weight, result.grid.values(result.codes), moments.hessian)
    ours, magnitude, plain = errors.values()
    assert ours < 1.05 * best / scale
    assert ours < 0.6 * magnitude < 0.6 * 0.5 * plain


def test_without_correlation_the_weights_of_least_effect_go() -> None:
    weight = normal(1, 4, 40)
    hessian = np.diag(np.linspace(1, 9, 40)).astype(np.float32)[None]
    expected = Sparsity(0.4).strongest(np.square(weight) * np.linspace(1, 9, 40, dtype=np.float32))
    np.testing.assert_array_equal(swept_mask(weight, hessian, Sparsity(0.4))[0], expected)
    np.testing.assert_array_equal(exact_mask(weight, hessian, Sparsity(0.4)), expected)


def test_refusals() -> None:
    assert parse_pattern("unstructured") is None
    assert parse_pattern("2:4") == (2, 4)
    for wrong in ("4:2", "0:4", "4:4", "2:4:8", "half", "-1:4"):
        with pytest.raises(ValueError, match="pattern must be"):
            parse_pattern(wrong)
    with pytest.raises(ValueError, match=r"share must be at least 0 and below 1, not 1.5"):
        Sparsity(1.5)
    with pytest.raises(ValueError, match="10 inputs cannot be cut into groups of 4"):
        Sparsity(0.5, (2, 4)).strongest(np.ones((1, 2, 10), np.float32))
    weight, hessian = problem(1, 2, 8)
    with pytest.raises(np.linalg.LinAlgError):
        prune(weight, -hessian, Pruning(HALF, "exact"))
    with pytest.raises(np.linalg.LinAlgError, match="NaN or Inf"):
        prune(weight, hessian * np.float32(np.nan), Pruning(HALF))
