"""Removal of whole channels, compared with dense solves of the quadratic, and with the paper step by step.

Tolerance: Hessians are float32, and solved in float64. 1e-6 of the error of a weight of zero is far below what any
other choice of values changes.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.numerics.asymmetric_target import asymmetric_target
from passes.numerics.channel_removal import Reader, removal_order, values_without, without_inputs
from passes.numerics.gptq import damped
from passes.numerics.grid import Floats
from passes.numerics.moments import MomentsAccumulator
from tests.support.arrays import moments_of, normal, rows


def problem(g: int, o: int, k: int, seed: int, correlation: float = 0.9) -> tuple[Floats, Floats]:
    """Return a weight and a damped Hessian of correlated inputs."""
    return normal(g, o, k, seed), damped(moments_of(rows(g, 20 * k, k, seed, correlation)).hessian, 0.01)


def reader(channels: int, taps: int, seed: int, *, o: int = 3, worth: float = 1.0, correlation: float = 0.9) -> Reader:
    weight, hessian = problem(1, o, channels * taps, seed, correlation)
    return Reader(weight, hessian, np.repeat(np.arange(channels), taps)[None], worth)


def solved(weight: Floats, hessian: Floats, removed: np.ndarray) -> np.ndarray:
    """Return the optimum with zeros at the removed inputs, by a dense solve for each row: H_KK v_K = H_K: w."""
    values = np.zeros(weight.shape)
    for g, o in np.ndindex(*weight.shape[:2]):
        kept, h = ~removed[g], hessian[g].astype(np.float64)
        values[g, o, kept] = np.linalg.solve(h[np.ix_(kept, kept)], h[kept] @ weight[g, o])
    return values


def error(weight: Floats, values: np.ndarray, hessian: Floats) -> float:
    missed = weight.astype(np.float64) - values
    return float(np.einsum("gok,gkl,gol->", missed, hessian.astype(np.float64), missed))


def error_without(readers: list[Reader], gone: set[int]) -> float:
    """Return the least error of all readers without some channels."""
    total = 0.0
    for each in readers:
        removed = np.isin(each.channels, sorted(gone))
        total += each.worth * error(each.weight, solved(each.weight, each.hessian, removed), each.hessian)
    return total


def all_zero(readers: list[Reader]) -> float:
    return sum(each.worth * error(each.weight, np.zeros(each.weight.shape), each.hessian) for each in readers)


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(2, 6),
    taps=st.sampled_from([1, 2, 4]),
    count=st.integers(1, 5),
    correlation=st.floats(0, 0.95),
    seed=st.integers(0, 10_000),
)
def test_errors_are_those_of_the_exact_optimum(
    channels: int, taps: int, count: int, correlation: float, seed: int
) -> None:
    """The error after each removal is the least of the quadratic without these inputs, by a dense solve."""
    readers = [
        reader(channels, taps, seed, correlation=correlation),
        reader(channels, 1, seed + 1, o=2, worth=3.0, correlation=correlation),
    ]
    order, errors = removal_order(readers, channels, min(count, channels - 1))
    assert len(set(order.tolist())) == len(order)
    for step in range(len(order)):
        exact = error_without(readers, set(order[: step + 1].tolist()))
        assert errors[step] == pytest.approx(exact, rel=1e-4, abs=1e-6 * all_zero(readers))


@settings(max_examples=30, deadline=None)
@given(channels=st.integers(2, 6), taps=st.sampled_from([1, 3]), seed=st.integers(0, 10_000))
def test_the_cheapest_channel_goes_first(channels: int, taps: int, seed: int) -> None:
    readers = [reader(channels, taps, seed), reader(channels, taps, seed + 1, o=5)]
    order, errors = removal_order(readers, channels, channels)
    gone: set[int] = set()
    for step, chosen in enumerate(order.tolist()):
        costs = {each: error_without(readers, gone | {each}) for each in range(channels) if each not in gone}
        assert costs[chosen] <= min(costs.values()) * (1 + 1e-4) + 1e-6 * all_zero(readers)
        gone.add(chosen)
        assert errors[step] == pytest.approx(costs[chosen], rel=1e-4, abs=1e-6 * all_zero(readers))


@settings(max_examples=40, deadline=None)
@given(
    g=st.integers(1, 3), k=st.integers(2, 10), correlation=st.floats(0, 0.95), seed=st.integers(0, 10_000),
    data=st.data(),
)  # fmt: skip
def test_values_are_the_exact_optimum(g: int, k: int, correlation: float, seed: int, data: st.DataObject) -> None:
    weight, hessian = problem(g, 4, k, seed, correlation)
    removed = np.array(data.draw(st.lists(st.lists(st.booleans(), min_size=k, max_size=k), min_size=g, max_size=g)))
    values = values_without(weight, hessian, removed)
    assert not values[np.broadcast_to(removed[:, None], values.shape)].any()
    best, zero = error(weight, solved(weight, hessian, removed), hessian), error(weight, 0 * weight, hessian)
    assert error(weight, values, hessian) <= best * (1 + 1e-4) + 1e-6 * zero


def test_without_removed_inputs_the_values_are_the_weights() -> None:
    weight, hessian = problem(2, 3, 5, 0)
    assert np.array_equal(values_without(weight, hessian, np.zeros((2, 5), np.bool_)), weight)


def test_channels_without_weight_go_first_and_cost_nothing() -> None:
    one = reader(6, 2, 0)
    weight = one.weight.copy()
    weight[:, :, [2, 3, 8, 9]] = 0  # channels 1 and 4
    order, errors = removal_order([Reader(weight, one.hessian, one.channels)], 6, 3)
    assert set(order[:2].tolist()) == {1, 4}
    assert errors[1] <= 1e-9 * all_zero([one]) < errors[2]


def test_fixed_inputs_stay_and_unread_channels_are_free() -> None:
    weight, hessian = problem(1, 3, 5, 0)
    one = Reader(weight, hessian, np.array([[-1, 0, 0, 1, 1]]))
    order, errors = removal_order([one], 3, 3)
    assert order[0] == 2  # nobody reads it
    assert errors[0] == 0
    removed = np.array([[False, True, True, True, True]])
    assert errors[2] == pytest.approx(error(weight, solved(weight, hessian, removed), hessian), rel=1e-4)


def test_groups_lose_their_channel_together() -> None:
    """A layer with two groups reads each channel in both, as one of their positions."""
    weight, hessian = problem(2, 3, 4, 3)
    one = Reader(weight, hessian, np.array([[0, 1, 2, 3], [0, 1, 2, 3]]))
    order, errors = removal_order([one], 4, 2)
    removed = np.isin(one.channels, order)
    assert errors[-1] == pytest.approx(error(weight, solved(weight, hessian, removed), hessian), rel=1e-4)


def test_several_at_once_have_the_exact_error_of_their_set() -> None:
    readers = [reader(16, 2, 5)]
    order, errors = removal_order(readers, 16, 8, together=4)
    assert errors[3] == errors[0] < errors[4]
    assert errors[-1] == pytest.approx(error_without(readers, set(order.tolist())), rel=1e-4)
    one_by_one = removal_order(readers, 16, 8)[1][-1]
    assert one_by_one <= errors[-1] * 1.001
    assert errors[-1] < 1.5 * one_by_one


def test_more_than_all_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="7 of 6 channels"):
        removal_order([reader(6, 1, 0)], 6, 7)


def test_an_indefinite_hessian_raises() -> None:
    one = reader(3, 1, 0)
    with pytest.raises(np.linalg.LinAlgError):
        removal_order([Reader(one.weight, -one.hessian, one.channels)], 3, 1)


@settings(max_examples=30, deadline=None)
@given(g=st.integers(1, 2), gone=st.integers(0, 3), seed=st.integers(0, 10_000), added=st.booleans())
def test_what_is_left_makes_up_for_removed_inputs_and_for_errors_before(
    g: int, gone: int, seed: int, added: bool
) -> None:
    """The best values for the smaller layer, by a dense least-squares fit of its outputs to the float ones."""
    n, k, o = 200, 6, 3
    clean, noise = rows(g, n, k, seed), rows(g, n, k, seed + 1)
    weight, shifted = normal(g, o, k, seed), clean + np.float32(0.2) * noise
    residual = np.float32(0.3) * rows(g, n, o, seed + 2) if added else None
    total = MomentsAccumulator(g, k, cross=True)
    total.update(shifted, clean - shifted, residual)
    removed = np.zeros((g, k), np.bool_)
    removed[:, :gone] = True
    smaller, moments = without_inputs(weight, total.moments(), removed)
    values = asymmetric_target(smaller, moments, damping=1e-6)
    for group in range(g):
        wanted = clean[group].astype(np.float64) @ weight[group].T.astype(np.float64)
        wanted += 0 if residual is None else residual[group]
        best = np.linalg.lstsq(shifted[group][:, gone:].astype(np.float64), wanted, rcond=None)[0].T
        np.testing.assert_allclose(values[group], best, atol=2e-3 * np.abs(best).max())
