"""Shares of channels for a cost, compared with all choices of small networks."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.numerics.channel_allocation import LayerCosts, NoShares, allocate_channels

SHARES = np.array([1.0, 0.75, 0.5, 0.25])


def chain(groups: int, seed: int) -> tuple[list[np.ndarray], list[np.ndarray], LayerCosts]:
    """Return a chain of layers, each of which reads what the one before writes, and random rising errors."""
    rng = np.random.default_rng(seed)
    errors = [np.concatenate([[0.0], np.cumsum(rng.exponential(size=3) ** 2)]) for _ in range(groups)]
    layers = np.arange(groups + 1)
    writes = np.where(layers < groups, layers, -1)
    costs = LayerCosts(rng.uniform(0, 0.2, groups + 1), rng.uniform(0.5, 2, groups + 1), layers - 1, writes)
    return [SHARES] * groups, errors, costs


def total(choices: tuple[int, ...] | list[int], errors: list[np.ndarray]) -> float:
    return float(sum(each[choice] for each, choice in zip(errors, choices, strict=True)))


def least(errors: list[np.ndarray], costs: LayerCosts, most: float) -> float:
    every = itertools.product(range(len(SHARES)), repeat=len(errors))
    return min(total(choices, errors) for choices in every if costs.total(SHARES[list(choices)]) <= most)


@settings(max_examples=60, deadline=None)
@given(groups=st.integers(1, 4), seed=st.integers(0, 10_000), share=st.floats(0.3, 1.0))
def test_the_cost_is_kept_and_nothing_can_be_given_back(groups: int, seed: int, share: float) -> None:
    kept, errors, costs = chain(groups, seed)
    most = costs.total(np.full(groups, 0.25)) * (1 - share) + share * costs.total(np.ones(groups))
    chosen = allocate_channels(kept, errors, costs, most)
    assert costs.total(SHARES[chosen]) <= most
    for group, choice in enumerate(chosen):
        for fewer in range(choice):
            changed = [*chosen]
            changed[group] = fewer
            assert costs.total(SHARES[changed]) > most or errors[group][fewer] == errors[group][choice]


def test_greedy_choices_are_near_the_best() -> None:
    """On 100 small networks, the error is on average within a tenth of the least one."""
    ratios = []
    for seed in range(100):
        kept, errors, costs = chain(4, seed)
        most = 0.6 * costs.total(np.ones(4))
        best = least(errors, costs, most)
        found = total(allocate_channels(kept, errors, costs, most), errors)
        assert found >= best - 1e-12
        ratios.append(found / best)
    assert np.mean(ratios) < 1.1


def test_one_group_takes_the_smallest_error_that_is_cheap_enough() -> None:
    kept, errors, costs = chain(1, 0)
    for choice in range(4):
        most = costs.total(SHARES[[choice]])
        assert allocate_channels(kept, errors, costs, most) == [choice]


def test_what_costs_nothing_stays() -> None:
    costs = LayerCosts(np.zeros(2), np.array([1.0, 0.0]), np.array([-1, -1]), np.array([0, 1]))
    errors = [np.array([0.0, 1.0]), np.array([0.0, 0.0])]
    assert allocate_channels([np.array([1.0, 0.5])] * 2, errors, costs, 0.5) == [1, 0]


def test_an_error_that_falls_by_chance_is_not_a_gain() -> None:
    costs = LayerCosts(np.zeros(1), np.ones(1), np.array([-1]), np.array([0]))
    assert allocate_channels([SHARES], [np.array([0.0, 0.3, 0.2, 0.5])], costs, 0.5) == [2]


def test_a_cost_that_cannot_be_reached_is_refused() -> None:
    kept, errors, costs = chain(2, 0)
    with pytest.raises(NoShares) as raised:
        allocate_channels(kept, errors, costs, 0.0)
    assert raised.value.args[0] == pytest.approx(costs.total(np.array([0.25, 0.25])))
