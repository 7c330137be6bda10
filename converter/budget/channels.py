"""Attempts without some of the channels. Only fewer products make a file of integers faster.

Effects of groups of channels and times of layers are measured once (`converter.pipeline.channel_shares`). Every attempt
takes another share of the time from them, and a bisection finds the share that the budget allows:

- if the drop is limited and the bytes are not, the largest share within the limit of drop;
- otherwise the smallest share within the limits of bytes and latency.

Bits follow on a network that has lost fewer channels, with half of the expected error. The other half is for the bits.
"""

import dataclasses
from collections.abc import Generator

import numpy as np

from converter.budget.candidate_builder import CandidateBuilder, Trial
from converter.channels.choice import ChannelChoices
from converter.pipeline.channel_shares import channel_step, measure_channels, replaced
from converter.recipes.overrides import with_channels
from converter.recipes.recipe import Recipe
from passes.errors import UsageError

__all__ = ["Channels"]

_FIRST, _STEP, _MOST = 0.3, 0.15, 0.9  # shares: of the first attempt, between attempts, at most
_ATTEMPTS = 5
_CANDIDATES = 20  # shares from which that for fewer bits is taken
_CLOSE = 0.04  # shares that differ by less are not told apart


class Channels:
    """Attempts of a search without some of the channels.

    Args:
        builder: Makes and judges the attempts.
        recipe: Recipe without a pass that removes channels.
    """

    def __init__(self, builder: CandidateBuilder, recipe: Recipe) -> None:
        self.builder, self.recipe = builder, recipe
        self.trials: list[tuple[float, Trial]] = []
        self.choices = _measured(builder, recipe)

    def attempts(self) -> Generator[Trial]:
        """Yield attempts until the share is found."""
        budget, low, high = self.builder.budget, 0.0, _MOST
        share = _FIRST
        for _ in range(_ATTEMPTS):
            try:
                recipe = self.with_share(self.recipe, share)
            except UsageError:  # layers have a part that stays
                high = share
                share = (low + high) / 2
                continue
            trial = self.builder.attempt(f"{self.recipe.name} without {share:.0%}", recipe)
            self.trials.append((share, trial))
            yield trial
            if budget.wants_smallest:
                more = trial.attempt.holds
            else:  # is it too large or too slow?
                more = bool(budget.broken(None, trial.attempt.bytes, trial.attempt.latency_ms))
            low, high = (share, high) if more else (low, share)
            if high - low < _CLOSE:
                return
            share = min(share + _STEP, (share + high) / 2) if high == _MOST else (low + high) / 2

    def with_share(self, recipe: Recipe, share: float) -> Recipe:
        """Return a recipe that removes the channels of a share of the time.

        Raises:
            UsageError: So many channels cannot go.
        """
        pruned = with_channels(recipe, share)
        step = channel_step(pruned)
        assert step is not None  # it was just added
        return dataclasses.replace(replaced(pruned, step, self.choices.step(step, share)), name=recipe.name)

    def for_fewer_bits(self) -> float:
        """Return the largest share with half of the expected error of the largest that holds. 0: there is none."""
        held = max((share for share, trial in self.trials if trial.attempt.holds), default=0.0)
        if not held:
            return 0.0
        most = self.choices.error(self.choices.shares(held)) / 2
        shares = np.linspace(held, 0, _CANDIDATES, endpoint=False).tolist()
        return next((share for share in shares if self.choices.error(self.choices.shares(share)) <= most), 0.0)


def _measured(builder: CandidateBuilder, recipe: Recipe) -> ChannelChoices:
    """Return the measured effects and times. A resumed search reads them from the cache."""
    pruned = with_channels(recipe, _FIRST)
    step = channel_step(pruned)
    assert step is not None  # it was just added
    cache = builder.cache_of(pruned)
    cached = cache.load("channels")
    if cached is not None:
        return ChannelChoices.from_json(str(cached["choices"]))
    choices = measure_channels(builder.prepared(pruned), step, builder.progress)
    cache.store("channels", {"choices": np.array(choices.to_json())})
    return choices
