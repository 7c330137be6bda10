"""The bisection over shares of channels, on files that are made up."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from converter.budget import channels
from converter.budget.channels import Channels
from converter.budget.limits import Budget
from converter.channels.choice import ChannelChoices
from converter.channels.effects import GroupEffect
from converter.pipeline.channel_shares import channel_step
from converter.recipes.builtin import find_recipe
from converter.recipes.recipe import Recipe
from passes.numerics.channel_allocation import LayerCosts

KEPT = tuple(range(64, 3, -1))
CHOICES = ChannelChoices(
    (GroupEffect("conv", 64, KEPT, tuple(1.0 - kept / 64 for kept in KEPT)),),
    LayerCosts(np.zeros(1), np.ones(1), np.array([-1]), np.array([0])),
    "macs",
)


class Builder:
    """Judges files by the share that was taken: the drop is ten times the square, and bytes fall with the share."""

    def __init__(self, budget: Budget) -> None:
        self.budget, self.trials = budget, list[Any]()

    def attempt(self, name: str, recipe: Recipe) -> Any:
        step = channel_step(recipe)
        assert step is not None
        drop, size, latency = 10 * step.share**2, round(1000 * (1 - step.share)), 10 * (1 - step.share)
        holds = not self.budget.broken(drop, size, latency)
        self.trials.append(
            SimpleNamespace(attempt=SimpleNamespace(drop=drop, bytes=size, latency_ms=latency, holds=holds), name=name)
        )
        return self.trials[-1]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "_measured", lambda *_: CHOICES)


def tried(budget: Budget) -> tuple[Channels, Builder]:
    builder: Any = Builder(budget)
    found = Channels(builder, find_recipe("int8"))
    assert len(list(found.attempts())) <= 5
    return found, builder


@pytest.mark.parametrize("drop", [0.1, 0.5, 1.0, 3.0])
def test_the_largest_share_within_the_drop_is_found(drop: float) -> None:
    found, builder = tried(Budget(max_drop=drop))
    best = max((share for share, trial in found.trials if trial.attempt.holds), default=0.0)
    assert (drop / 10) ** 0.5 - 0.1 < best <= (drop / 10) ** 0.5
    assert builder.trials[0].name == "int8 without 30%"


@pytest.mark.parametrize(("budget", "needed"), [(Budget(max_latency=6.0), 0.4), (Budget(max_bytes=800), 0.2)])
def test_the_smallest_share_within_other_limits_is_found(budget: Budget, needed: float) -> None:
    found, _ = tried(budget)
    least = min(share for share, trial in found.trials if trial.attempt.holds)
    assert needed <= least < needed + 0.1


def test_bits_get_half_of_the_error() -> None:
    found, _ = tried(Budget(max_drop=1.0))
    held = max(share for share, trial in found.trials if trial.attempt.holds)
    share = found.for_fewer_bits()
    error = {each: CHOICES.error(CHOICES.shares(each)) for each in (share, held)}
    assert 0.4 * error[held] <= error[share] <= 0.5 * error[held]
    nothing, _ = tried(Budget(max_drop=0.001))
    assert nothing.for_fewer_bits() == 0


def test_shares_that_cannot_go_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    stays = LayerCosts(np.array([3.0]), np.ones(1), np.array([-1]), np.array([0]))
    monkeypatch.setattr(channels, "_measured", lambda *_: ChannelChoices(CHOICES.effects, stays, "macs"))
    found, _ = tried(Budget(max_drop=100.0))
    assert found.trials
    assert max(share for share, _ in found.trials) < 0.25
