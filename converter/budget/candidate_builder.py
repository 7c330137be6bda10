"""Makes a file by a recipe and judges it: what every rung of the ladder does."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.budget.cache import Cache
from converter.budget.effects import Effects, measure_effects
from converter.budget.held_out_judge import Judge, Verdict
from converter.budget.limits import Budget
from converter.budget.source_digest import source_digest
from converter.data.dataset import Dataset
from converter.pipeline.convert import convert
from converter.pipeline.result import Result, mean_file_bits, versions
from converter.pipeline.search_record import BudgetAttempt
from converter.recipes.recipe import Recipe
from converter.recipes.toml import dump_recipe
from converter.runtime.session import Progress
from converter.targets.target import Target
from passes.numerics.error import decibel
from passes.weights.learned_rounding import Device, LearnedRounding
from passes.weights.qat import Qat

__all__ = ["CandidateBuilder", "Trial", "best"]


@dataclass(frozen=True)
class Trial:
    """An attempt, and what the next one is chosen by.

    Attributes:
        attempt: what is reported.
        recipe: that made the file.
        verdict: of the held-out images.
        own: error of each layer's output where it was quantized, by name.
    """

    attempt: BudgetAttempt
    recipe: Recipe
    verdict: Verdict
    own: dict[str, float]


class CandidateBuilder:
    """One model, its images and what has been made of them.

    Args:
        source: the float model.
        fit: images to calibrate on.
        judge: held-out images.
        budget: what an attempt is held against.
        target: where the file will run.
        device: where learned rounding learns.
        cache: folder of what was measured before; None: nothing is kept.
        memory_budget: bytes of activations held in memory.
        progress: called as work goes on.
    """

    def __init__(
        self,
        source: onnx.ModelProto,
        fit: Dataset,
        judge: Judge,
        budget: Budget,
        target: Target,
        device: Device | None,
        cache: Path | None,
        memory_budget: int,
        progress: Progress,
    ) -> None:
        self.source, self.fit, self.judge, self.budget, self.target = source, fit, judge, budget, target
        self.device, self.memory_budget, self.progress = device, memory_budget, progress
        self.cache_folder = cache
        self.trials: list[Trial] = []
        self.effects: Effects | None = None
        self.fewest_bytes: float | None = None  # expected of mixed bits, where no choice of them is within the limit
        self._best: Result | None = None
        self._digest = "" if cache is None else hashlib.sha256(source.SerializeToString(deterministic=True)).hexdigest()
        self._source = "" if cache is None else source_digest()

    def attempt(self, name: str, recipe: Recipe, predicted: float | None = None) -> Trial:
        """Make a file by a recipe and judge it, or remember what an earlier run measured of it.

        Args:
            name: of the rung.
            recipe: that makes it.
            predicted: power of the output's error that is expected.
        """
        cache, started = self.cache_of(recipe), time.perf_counter()
        found = cache.load("attempt")
        if found is None:
            result = self._convert(recipe)
            found = self._measured(result)
            found["seconds"] = np.array(time.perf_counter() - started)
            cache.store("attempt", found)
        else:
            result = None
        trial = self._trial(name, recipe, found, predicted)
        self.trials.append(trial)
        if best(self.trials, self.budget) is trial:
            self._best = result
        return trial

    def effects_of(self, recipe: Recipe) -> Effects:
        """The database of the recipe's layers; measured once."""
        if self.effects is None:
            self.effects = measure_effects(
                self.source,
                recipe,
                self.target,
                self.fit,
                self.judge.data,
                self.cache_of(recipe),
                self.memory_budget,
                self.progress,
            )
        return self.effects

    def kept(self) -> Result | None:
        """The conversion to keep, made again where only its measurements are there; None where no attempt holds."""
        trial = best(self.trials, self.budget)
        if trial is None:
            return None
        if self._best is None:
            result = self._convert(trial.recipe)
            found = self._measured(result) | {"seconds": np.array(trial.attempt.seconds)}
            again = self._trial(trial.attempt.name, trial.recipe, found, None)
            if not again.attempt.holds:  # made elsewhere, or by other threads: what holds here is what counts
                self.trials[self.trials.index(trial)] = again
                return self.kept()
            self._best = result
        return self._best

    def _convert(self, recipe: Recipe) -> Result:
        learns = any(isinstance(step, LearnedRounding | Qat) for step in recipe.passes)
        return convert(
            self.source,
            self.fit,
            recipe=recipe,
            target=self.target.name,
            limit=len(self.fit),
            device=self.device if learns else None,
            memory_budget=self.memory_budget,
            progress=self.progress,
        )

    def _measured(self, result: Result) -> dict[str, NDArray[Any]]:
        """All that is known of a file, as arrays."""
        verdict = self.judge.judge(result.model)
        layers = [layer for layer in result.layers if not layer.reason]
        own = {layer.name: layer.after_db for layer in layers if layer.after_db is not None}
        latency = self.judge.latency(result.model) if self.target.provider == "cpu" else (np.nan, np.nan)
        facts = {
            "layer_bits": {layer.name: layer.bits for layer in layers},
            "own": {name: max(10 ** (-decibels / 10), 0.0) for name, decibels in own.items()},
        }
        return {
            "facts": np.array(json.dumps(facts)),
            "mean_bits": np.array(mean_file_bits(layers)),
            "bytes": np.array(result.model.ByteSize()),
            "power": np.array(verdict.power),
            "errors": np.zeros(0, np.float32) if verdict.errors is None else verdict.errors,
            "latency": np.array(latency),
        }

    def _trial(self, name: str, recipe: Recipe, found: dict[str, NDArray[Any]], predicted: float | None) -> Trial:
        facts = json.loads(str(found["facts"]))
        size, power = int(found["bytes"]), float(found["power"])
        latency, speedup = (_or_none(value) for value in found["latency"])
        verdict = self.judge.verdict(power, found["errors"] if found["errors"].size else None)
        lost = verdict.drop
        drop = None if lost is None else 100 * lost.judged
        attempt = BudgetAttempt(
            name=name,
            layer_bits=facts["layer_bits"],
            mean_bits=float(found["mean_bits"]),
            bytes=size,
            drop=drop,
            counted_drop=None if lost is None else 100 * lost.counted,
            drop_error=None if lost is None else 100 * lost.error,
            expected_drop=None if lost is None else 100 * lost.expected,
            sqnr_db=decibel(1.0, power),
            predicted_db=None if predicted is None else decibel(1.0, predicted),
            latency_ms=latency,
            speedup=speedup,
            seconds=float(found["seconds"]),
            broken=self.budget.broken(drop, size, latency),
        )
        return Trial(attempt, recipe, verdict, facts["own"])

    def cache_of(self, recipe: Recipe) -> Cache:
        """Where what depends on this recipe lies."""
        if self.cache_folder is None:
            return Cache(None, {})
        facts = {
            "model": self._digest,
            "calibration": self.fit.describe(),
            "held_out": self.judge.data.describe(),
            "recipe": dump_recipe(dataclasses.replace(recipe, description="")),
            "target": self.target.name,
            "source": self._source,
            "versions": versions(),
        }
        return Cache(self.cache_folder, facts)


def best(trials: Sequence[Trial], budget: Budget) -> Trial | None:
    """The attempt to keep of those that hold: the smallest, or where bytes are limited the most accurate."""
    holding = [trial for trial in trials if trial.attempt.holds]
    if not holding:
        return None
    if budget.wants_smallest:
        return min(holding, key=lambda trial: trial.attempt.bytes)
    return min(holding, key=lambda trial: trial.verdict.power)


def _or_none(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
