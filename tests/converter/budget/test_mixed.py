"""What noise the next attempt at mixed bits goes for, by what the attempts so far cost."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from converter.budget.limits import Budget
from converter.budget.mixed import _NoiseModel
from passes.numerics.expected_drop import Drop

FLOOR = 0.001
LIMIT = 0.5  # points


def trial(power: float, expected: float, *, counted: float | None = None, holds: bool) -> Any:
    """An attempt; drops in points. Counting is as uncertain as the expectation, so half of it is believed."""
    counts = expected if counted is None else counted
    drop = Drop(counts / 100, 0.25 * expected / 100, expected / 100)
    verdict = SimpleNamespace(power=power, drop=drop, errors=np.zeros((4, 3), np.float32))
    return SimpleNamespace(attempt=SimpleNamespace(holds=holds), verdict=verdict)


def aim(*trials: Any) -> tuple[float, float]:
    """What is gone for after these, and the drop that the last one's errors were scaled to; drops grow with power."""
    asked: list[float] = []

    def largest_scale(_: Any, drop: float, most: float) -> float:
        asked.append(100 * drop)
        return min(most, float(np.sqrt(drop / trials[-1].verdict.drop.expected)))

    judge = SimpleNamespace(margins=SimpleNamespace(largest_scale=largest_scale))
    builder = SimpleNamespace(budget=Budget(max_drop=LIMIT), judge=judge, trials=list(trials))
    model = _NoiseModel(Mock(own=np.ones((2, 4))), FLOOR, builder)  # type: ignore[arg-type]
    model.nearest = trials[-1]
    return model._aim(), asked[0]


def test_the_allowed_drop_is_gone_for() -> None:
    found, drop = aim(trial(0.01, 0.25, holds=True))
    assert found == pytest.approx(0.02)
    assert drop == pytest.approx(LIMIT)


def test_bad_luck_in_counting_is_made_room_for_and_good_luck_is_not() -> None:
    unlucky = trial(0.04, 0.6, counted=0.8, holds=False)
    assert unlucky.verdict.drop.judged > unlucky.verdict.drop.expected
    missing = 100 * (unlucky.verdict.drop.judged - unlucky.verdict.drop.expected)
    assert aim(unlucky)[1] == pytest.approx(LIMIT - missing)
    assert aim(trial(0.04, 0.6, counted=20.0, holds=False))[1] == pytest.approx(LIMIT / 2)
    assert aim(trial(0.04, 0.6, counted=0.1, holds=False))[1] == pytest.approx(LIMIT)


def test_it_is_a_step_from_what_broke_the_budget_where_expectation_says_nothing_new() -> None:
    """The last attempt broke it though its errors would let expect a drop that is allowed."""
    held, broke = trial(0.002, 0.05, holds=True), trial(0.03, 0.499, holds=False)
    found, _ = aim(held, broke)
    assert found == pytest.approx(0.8 * 0.95 * 0.03)
    near = trial(0.02, 0.4, holds=True)
    assert aim(near, broke)[0] == pytest.approx(np.sqrt(0.02 * 0.95 * 0.03))


def test_there_is_an_end() -> None:
    assert aim(trial(0.0285, 0.4, holds=True), trial(0.03, 0.6, holds=False))[0] == 0.0
