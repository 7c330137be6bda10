"""Interleaved timing: the order of calls, and speedups from the times of each round."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from converter.runtime.latency import interleaved_times, speedup_quartiles


def test_rounds_call_everything_in_rotating_order() -> None:
    order: list[str] = []

    def slow(name: str) -> Callable[[], None]:
        def call() -> None:
            order.append(name)
            sum(range(300_000))

        return call

    times = interleaved_times([slow("a"), slow("b"), slow("c")], rounds=6, warmup=1)
    assert times.shape == (6, 3)
    assert (times > 0).all()
    rounds = "".join(order[6:])  # one warm-up call and one to see how long it takes, of each
    assert re.fullmatch("(a+b+c+b+c+a+c+a+b+){2}", rounds)


def test_spent_budget_still_does_five_rounds() -> None:
    assert interleaved_times([lambda: None], rounds=50, budget=0).shape == (5, 1)
    assert interleaved_times([lambda: None], rounds=3, budget=0).shape == (3, 1)


def test_a_slow_minute_does_not_change_the_quartiles() -> None:
    own = np.array([1.0, 2.0, 4.0, 100.0, 1.0])
    first, second, third = speedup_quartiles(np.stack([own, own / 2, own / [1.0, 1.1, 1.2, 1.3, 1.4]], axis=1))
    assert (first, second) == ((1, 1), (2, 2))
    assert third == pytest.approx((1.1, 1.3))
