"""Bits for every layer: predicted by the additive noise model, chosen exactly, made, measured, corrected, chosen again.

What is measured corrects three things: each layer's error, by what the walk reached there; how much of the errors at
each number of bits arrives at the output; and the bytes of the file around the weights. What a drop of so many points
means in noise comes from the errors of the attempts themselves, scaled (`passes.numerics.expected_drop`), between those that
held and those that did not.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.budget.candidate_builder import CandidateBuilder, Trial, best
from converter.budget.effects import BITS, Effects
from converter.recipes.builtin import RECIPES
from converter.recipes.recipe import Recipe
from passes.base import LayerPass
from passes.numerics.allocation import NoAllocation, allocate
from passes.numerics.noise_table import arriving_shares, as_deployed
from passes.numerics.two_level import MOST_BITS

__all__ = ["BASE", "mixed_attempts", "with_bits"]

BASE = dataclasses.replace(
    RECIPES["int4"],
    name="mixed",
    description="bits of every layer chosen within a budget",
    # the multiples of smaller blocks take more bytes than their gain is worth as bits of other layers
    passes=tuple(
        dataclasses.replace(step, block_size=16, fewest_blocks=0) if isinstance(step, LayerPass) else step
        for step in RECIPES["int4"].passes
    ),
    storage="packed",
)
_SMALLER, _MORE_ACCURATE = 5, 3  # attempts, by what is looked for
_LEAST_GAIN = 0.01  # of the bytes; less is not worth another walk
_FARTHEST = 8.0  # times the amplitude of an error that is scaled to see what it would cost
_INSIDE, _NOISIER = 0.95, 1.05  # of the powers of attempts that broke the budget and that held: the next lies between

_FURTHER = 1.5  # times the power that held, where nothing has been broken yet
_STEP = 0.8  # times the least power that broke the budget: a decibel, which is a sixth of a bit
_MOST_LUCK = 0.5  # of the allowed drop that bad luck in counting may take

Choices = NDArray[np.intp]


def with_bits(recipe: Recipe, bits: int | Mapping[str, int]) -> Recipe:
    """The recipe with these bits in every layer; those that two levels are not for come with one scale a channel."""
    if isinstance(bits, int):
        change: dict[str, Any] = {"bits": bits, "layer_bits": {}, "first_last_bits": None}
        if bits > MOST_BITS:
            change |= {"block_size": None, "two_level": False}
    else:
        change = {"layer_bits": dict(bits)}
    steps = (dataclasses.replace(step, **change) if isinstance(step, LayerPass) else step for step in recipe.passes)
    return dataclasses.replace(recipe, passes=tuple(steps))


def mixed_attempts(builder: CandidateBuilder, recipe: Recipe, floor: Trial, starts: Sequence[Trial]) -> Iterator[Trial]:
    """Attempts at mixed bits, each better informed than the one before.

    Args:
        builder: makes and judges them.
        recipe: `BASE` with the images' preprocessing and seed.
        floor: an attempt whose weights add no noise to speak of.
        starts: attempts at the same bits throughout.
    """
    effects = builder.effects_of(recipe)
    model = _NoiseModel(effects, floor.verdict.power, builder)
    for start in starts:
        model.learn(start)
    tried: set[tuple[int, ...]] = set()
    for _ in range(_SMALLER if builder.budget.wants_smallest else _MORE_ACCURATE):
        choices = model.choose()
        if choices is None and builder.budget.max_bytes is not None:
            builder.fewest_bytes = model.fewest_bytes()
        if choices is None or tuple(choices) in tried or not model.worthwhile(choices):
            return
        tried.add(tuple(choices))
        bits = {name: BITS[choice] for name, choice in zip(effects.names, choices, strict=True)}
        trial = builder.attempt("mixed", with_bits(recipe, bits), model.power(choices))
        model.learn(trial)
        yield trial


class _NoiseModel:
    """What is known of the noise and bytes of a choice; attempts teach it."""

    def __init__(self, effects: Effects, floor: float, builder: CandidateBuilder) -> None:
        self.effects, self.floor, self.builder = effects, floor, builder
        self.own, self.known = effects.own, np.zeros(effects.own.shape, bool)
        self.shares, self.heard = np.ones(len(BITS)), np.zeros(len(BITS), bool)
        self.around, self.strayed = 0.0, 0.0  # bytes of the file around the weights; by which the last was too large
        self.nearest: Trial | None = None

    @property
    def noise(self) -> NDArray[np.float64]:
        """What reaches the output of every layer's error ``[l, c]``; more bits are never believed to be noisier."""
        noise = self.shares * self.effects.importance[:, None] * self.own
        falling: NDArray[np.float64] = np.maximum.accumulate(noise[:, ::-1], axis=1)[:, ::-1]
        return falling

    def power(self, choices: Choices) -> float:
        """Expected of the output's error."""
        return self.floor + float(_taken(self.noise, choices).sum())

    def size(self, choices: Choices) -> float:
        """Expected bytes of the file."""
        return self.around + float(_taken(self.effects.bytes, choices).sum())

    def fewest_bytes(self) -> float:
        """Expected bytes of the smallest file there is."""
        return self.around + float(self.effects.bytes.min(axis=1).sum())

    def learn(self, trial: Trial) -> None:
        """Correct everything by an attempt."""
        choices = self.effects.choices(trial.attempt.layer_bits)
        measured = np.array([trial.own.get(name, np.nan) for name in self.effects.names])
        self.own, self.known = as_deployed(self.own, self.known, choices, measured)
        put_in = self.effects.importance * _taken(self.own, choices)
        sums = np.bincount(choices, put_in, len(BITS)).astype(np.float64)
        above = trial.verdict.power - self.floor
        self.shares, self.heard = arriving_shares(self.shares, self.heard, sums, above)
        if trial.attempt.predicted_db is not None:
            self.strayed = max(trial.attempt.bytes - self.size(choices), 0.0)
        self.around = trial.attempt.bytes - float(_taken(self.effects.bytes, choices).sum())
        self.nearest = trial

    def choose(self) -> Choices | None:
        """The best choice by what is known now; None if there is none within the budget."""
        budget = self.builder.budget
        try:
            if budget.wants_smallest:
                return allocate(self.effects.useful, self.noise, self._aim() - self.floor)
            if budget.max_bytes is None:
                return None
            return allocate(self.noise, self.effects.useful, budget.max_bytes - self.around - self.strayed)
        except NoAllocation:
            return None

    def worthwhile(self, choices: Choices) -> bool:
        """Whether the choice promises to be smaller, or more accurate, than the best so far."""
        held = best(self.builder.trials, self.builder.budget)
        if held is None:
            return True
        if self.builder.budget.wants_smallest:
            return self.size(choices) < held.attempt.bytes * (1 - _LEAST_GAIN)
        return self.power(choices) < held.verdict.power

    def _aim(self) -> float:
        """Power of the output's error to go for; 0 where nothing is left to try.

        That is where the allowed drop is expected, less what the last attempt was out of luck by; or, where that is no
        news, between the attempts that held and those that did not, and no further from the latter than a step.
        """
        nearest, margins, drop = self.nearest, self.builder.judge.margins, self.builder.budget.max_drop
        if nearest is None or nearest.verdict.errors is None or margins is None or drop is None:
            return 0.0
        allowed = drop / 100
        if nearest.verdict.drop is not None:
            unlucky = nearest.verdict.drop.judged - nearest.verdict.drop.expected
            allowed -= min(max(unlucky, 0.0), _MOST_LUCK * allowed)
        aim = margins.largest_scale(nearest.verdict.errors, allowed, _FARTHEST) ** 2 * nearest.verdict.power
        trials = self.builder.trials
        ceiling = min((_INSIDE * trial.verdict.power for trial in trials if not trial.attempt.holds), default=math.inf)
        held = max([self.floor, *(trial.verdict.power for trial in trials if trial.attempt.holds)])
        if held * _NOISIER > ceiling:
            return 0.0
        if held * _NOISIER < aim < ceiling:
            return aim
        if not math.isfinite(ceiling):
            return held * _FURTHER
        return max(math.sqrt(held * ceiling), _STEP * ceiling)


def _taken(table: NDArray[np.float64], choices: Choices) -> NDArray[np.float64]:
    """Entries ``[l]`` of the choices."""
    taken: NDArray[np.float64] = np.take_along_axis(table, choices[:, None], axis=1)[:, 0]
    return taken
