"""The noise that the next attempt at mixed bits aims at, given the drops of the attempts so far."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from converter.budget.effects import BITS, Effects
from converter.budget.limits import Budget
from converter.budget.mixed import _NoiseModel
from passes.numerics.expected_drop import Drop

FLOOR = 0.001
LIMIT = 0.5  # points


def trial(power: float, expected: float, *, counted: float | None = None, holds: bool) -> Any:
    """An attempt with drops in points. The counted and the expected drop are equally uncertain and weigh the same."""
    counts = expected if counted is None else counted
    drop = Drop(counts / 100, 0.25 * expected / 100, expected / 100)
    verdict = SimpleNamespace(power=power, drop=drop, errors=np.zeros((4, 3), np.float32))
    return SimpleNamespace(attempt=SimpleNamespace(holds=holds), verdict=verdict)


def aim(*trials: Any) -> tuple[float, float]:
    """The power aimed at after these attempts, and the drop that the errors of the last one were scaled to."""
    drops: list[float] = []

    def largest_scale(_: Any, drop: float, most: float) -> float:  # the drop grows with the power
        drops.append(100 * drop)
        return min(most, float(np.sqrt(drop / trials[-1].verdict.drop.expected)))

    judge = SimpleNamespace(margins=SimpleNamespace(largest_scale=largest_scale))
    builder = SimpleNamespace(budget=Budget(max_drop=LIMIT), judge=judge, trials=list(trials))
    model = _NoiseModel(Mock(own=np.ones((2, 4))), FLOOR, builder)  # type: ignore[arg-type]
    model.nearest = trials[-1]
    return model._aim(), drops[0]


def test_it_aims_at_the_allowed_drop() -> None:
    power, drop = aim(trial(0.01, 0.25, holds=True))
    assert power == pytest.approx(0.02)
    assert drop == pytest.approx(LIMIT)


def test_a_counted_drop_above_the_expected_one_lowers_the_aim_and_one_below_does_not_raise_it() -> None:
    worse = trial(0.04, 0.6, counted=0.8, holds=False)
    assert worse.verdict.drop.judged > worse.verdict.drop.expected
    excess = 100 * (worse.verdict.drop.judged - worse.verdict.drop.expected)
    assert aim(worse)[1] == pytest.approx(LIMIT - excess)
    assert aim(trial(0.04, 0.6, counted=20.0, holds=False))[1] == pytest.approx(LIMIT / 2)
    assert aim(trial(0.04, 0.6, counted=0.1, holds=False))[1] == pytest.approx(LIMIT)


def test_it_aims_a_step_below_what_broke_the_budget_if_the_expected_drop_says_nothing_new() -> None:
    """The last attempt broke the budget although its expected drop was allowed."""
    held, broke = trial(0.002, 0.05, holds=True), trial(0.03, 0.499, holds=False)
    power, _ = aim(held, broke)
    assert power == pytest.approx(0.8 * 0.95 * 0.03)
    near = trial(0.02, 0.4, holds=True)
    assert aim(near, broke)[0] == pytest.approx(np.sqrt(0.02 * 0.95 * 0.03))


def test_it_ends_when_powers_within_and_beyond_the_budget_meet() -> None:
    assert aim(trial(0.0285, 0.4, holds=True), trial(0.03, 0.6, holds=False))[0] == 0.0


def test_bits_between_the_choices_count_as_the_next_more() -> None:
    """A small layer on integers gets 7 bits in the type of 8 (`LayerPass.stored_bits`)."""
    table = np.ones((3, 4))
    effects = Effects(("a", "b", "c"), np.ones(3, np.int64), table, table, *2 * [table.astype(np.int64)])
    assert [BITS[choice] for choice in effects.choices({"c": 2, "b": 7, "a": 4})] == [4, 8, 2]
