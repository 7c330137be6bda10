"""Attempts at mixed bits: bits are chosen for every layer, the file is made and measured, and the choice is repeated.

The additive noise model predicts the noise of a choice, and an exact solver finds the best choice. The measurements of
each attempt correct three parts of the model:

- the error of each layer, by the error that sequential calibration reached there;
- the share of the errors at each number of bits that arrives at the output;
- the bytes of the file besides the weights.

The noise that belongs to an allowed drop is estimated by scaling the errors of the attempts themselves
(`passes.numerics.expected_drop`). It lies between the noise of attempts within the budget and of those beyond it.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from converter.budget.candidate_builder import CandidateBuilder, Trial, best
from converter.budget.effects import BITS, Effects
from converter.budget.held_out_judge import Verdict
from converter.recipes.builtin import RECIPES
from converter.recipes.overrides import with_bits
from converter.recipes.recipe import Recipe
from passes.numerics.allocation import NoAllocation, allocate
from passes.numerics.noise_table import arriving_shares, as_deployed

__all__ = ["BASE", "mixed_attempts"]

BASE = dataclasses.replace(
    # block scales of smaller blocks take bytes that gain more as bits of other layers
    RECIPES["int4"].with_solver(block_size=16, fewest_blocks=0),
    name="mixed",
    description="bits of every layer chosen within a budget",
    storage="packed",
)
_SMALLER, _MORE_ACCURATE = 5, 3  # attempts if the search looks for the smallest or for the most accurate file
_LEAST_GAIN = 0.01  # share of the bytes; a smaller gain is not worth another conversion
_FARTHEST = 8.0  # largest factor by which an error is scaled to estimate its drop
_INSIDE, _NOISIER = 0.95, 1.05  # the next power lies between these multiples of a broken and of a held attempt's

_FURTHER = 1.5  # factor on the power that held the budget, if no attempt has broken it yet
_STEP = 0.8  # least factor on the least power that broke the budget: one decibel, a sixth of a bit
_MOST_EXCESS = 0.5  # largest share of the allowed drop that is reserved for the error of counting

Choices = NDArray[np.intp]


def mixed_attempts(
    builder: CandidateBuilder, recipe: Recipe, eight_bit: Trial, starts: Sequence[Trial]
) -> Iterator[Trial]:
    """Make attempts at mixed bits. Each one uses the measurements of those before it.

    Args:
        builder: Makes and judges the attempts.
        recipe: `BASE` with the images' preprocessing and seed.
        eight_bit: An attempt at 8 bits, whose weights add almost no noise.
        starts: Attempts with the same bits in every layer.
    """
    effects = builder.effects_of(recipe)
    model = _NoiseModel(effects, eight_bit.verdict.power, builder)
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
    """Predicts the noise and the bytes of a choice. Every attempt corrects it.

    Args:
        effects: Measured effects of the layers.
        noise_floor: Power of the output's error at 8 bits, which comes from the activations.
        builder: Makes and judges the attempts.
    """

    def __init__(self, effects: Effects, noise_floor: float, builder: CandidateBuilder) -> None:
        self.effects, self.noise_floor, self.builder = effects, noise_floor, builder
        self.own, self.known = effects.own, np.zeros(effects.own.shape, bool)
        self.shares, self.known_shares = np.ones(len(BITS)), np.zeros(len(BITS), bool)
        self.other_bytes, self.excess_bytes = (
            0.0,
            0.0,
        )  # of the file besides the weights; of the last above the expected
        self.nearest: Trial | None = None

    @property
    def noise(self) -> NDArray[np.float64]:
        """Noise of every layer's choices at the output ``[l, c]``. It never rises with the bits."""
        noise = self.shares * self.effects.importance[:, None] * self.own
        falling: NDArray[np.float64] = np.maximum.accumulate(noise[:, ::-1], axis=1)[:, ::-1]
        return falling

    def power(self, choices: Choices) -> float:
        """Return the expected power of the output's error."""
        return self.noise_floor + float(_selected(self.noise, choices).sum())

    def size(self, choices: Choices) -> float:
        """Return the expected bytes of the file."""
        return self.other_bytes + float(_selected(self.effects.bytes, choices).sum())

    def fewest_bytes(self) -> float:
        """Return the expected bytes of the smallest possible file."""
        return self.other_bytes + float(self.effects.bytes.min(axis=1).sum())

    def learn(self, trial: Trial) -> None:
        """Correct the model by the measurements of an attempt."""
        choices = self.effects.choices(trial.attempt.layer_bits)
        measured = np.array([trial.own.get(name, np.nan) for name in self.effects.names])
        self.own, self.known = as_deployed(self.own, self.known, choices, measured)
        layer_noise = self.effects.importance * _selected(self.own, choices)
        sums = np.bincount(choices, layer_noise, len(BITS)).astype(np.float64)
        arrived = trial.verdict.power - self.noise_floor
        self.shares, self.known_shares = arriving_shares(self.shares, self.known_shares, sums, arrived)
        if trial.attempt.predicted_db is not None:
            self.excess_bytes = max(trial.attempt.bytes - self.size(choices), 0.0)
        self.other_bytes = trial.attempt.bytes - float(_selected(self.effects.bytes, choices).sum())
        self.nearest = trial

    def choose(self) -> Choices | None:
        """Return the best choice by the model, or None if there is none within the budget."""
        budget = self.builder.budget
        try:
            if budget.wants_smallest:
                return allocate(self.effects.useful, self.noise, self._aim() - self.noise_floor)
            if budget.max_bytes is None:
                return None
            left = budget.max_bytes - self.other_bytes - self.excess_bytes
            return allocate(self.noise, self.effects.useful, left)
        except NoAllocation:
            return None

    def worthwhile(self, choices: Choices) -> bool:
        """Whether the choice is expected to be smaller, or more accurate, than the best attempt so far."""
        held = best(self.builder.trials, self.builder.budget)
        if held is None:
            return True
        if self.builder.budget.wants_smallest:
            return self.size(choices) < held.attempt.bytes * (1 - _LEAST_GAIN)
        return self.power(choices) < held.verdict.power

    def _aim(self) -> float:
        """Return the power of the output's error that the next attempt aims at. 0 means that nothing is left to try.

        The aim is the power at which the allowed drop is expected. The allowed drop is first reduced by the excess of
        the last attempt's drop over its expected drop. If that aim does not lie between the powers of attempts within
        the budget and beyond it, the aim is set between them, at most one step below the latter.
        """
        nearest, drop = self.nearest, self.builder.budget.max_drop
        if nearest is None or drop is None or nearest.verdict.drop is None:
            return 0.0
        aim = self._power_of(nearest.verdict, drop / 100)
        trials = self.builder.trials
        ceiling = min((_INSIDE * trial.verdict.power for trial in trials if not trial.attempt.holds), default=math.inf)
        held = max([self.noise_floor, *(trial.verdict.power for trial in trials if trial.attempt.holds)])
        if held * _NOISIER > ceiling:
            return 0.0
        if held * _NOISIER < aim < ceiling:
            return aim
        if not math.isfinite(ceiling):
            return held * _FURTHER
        return max(math.sqrt(held * ceiling), _STEP * ceiling)

    def _power_of(self, verdict: Verdict, allowed: float) -> float:
        """Return the power of the output's error at which the allowed drop is expected, given that of an attempt."""
        margins, lost = self.builder.judge.margins, verdict.drop
        assert lost is not None
        if margins is None or verdict.errors is None:  # a metric, whose drop is taken to grow with the power
            scale = allowed / max(lost.judged, lost.error, 1e-9)
            return min(scale, _FARTHEST**2) * verdict.power
        allowed -= min(max(lost.judged - lost.expected, 0.0), _MOST_EXCESS * allowed)
        return margins.largest_scale(verdict.errors, allowed, _FARTHEST) ** 2 * verdict.power


def _selected(table: NDArray[np.float64], choices: Choices) -> NDArray[np.float64]:
    """Return the entries of the choices ``[l]`` in a table ``[l, c]``."""
    selected: NDArray[np.float64] = np.take_along_axis(table, choices[:, None], axis=1)[:, 0]
    return selected
