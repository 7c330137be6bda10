"""Makes files by recipes and judges them, for every rung of the ladder."""

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.budget.effects import Effects, Row, measure_effects, measure_some
from converter.budget.held_out_judge import Judge, Verdict
from converter.budget.limits import Budget
from converter.budget.sensitivity import error_sources
from converter.cache.folder import Cache
from converter.cache.source_digest import source_digest
from converter.data.dataset import Dataset
from converter.error_sources.measure import ErrorSource
from converter.model_io.sizes import model_digest, serialized_bytes
from converter.pipeline.convert import quantize
from converter.pipeline.prepare import Prepared, prepare
from converter.pipeline.result import Result, mean_file_bits, versions
from converter.pipeline.search_record import BudgetAttempt
from converter.pipeline.settings import Settings
from converter.recipes.builtin import learning_on
from converter.recipes.recipe import Recipe
from converter.recipes.toml import dump_recipe
from converter.runtime.few_samples import real_feeds
from converter.runtime.session import Progress
from converter.runtime.steps import log_step
from converter.targets.target import Target
from passes.numerics.error import decibel
from passes.numerics.expected_drop import Drop

__all__ = ["CandidateBuilder", "Trial", "best"]

_MEASURED = 4  # held-out samples that measure what each rounding costs


@dataclass(frozen=True)
class Trial:
    """An attempt, with the measurements that the next attempt is chosen by.

    Attributes:
        attempt: The attempt as it is reported.
        recipe: Recipe of the file.
        verdict: Errors on the held-out samples.
        own: Relative error power of each layer's own output when it was quantized, by name.
    """

    attempt: BudgetAttempt
    recipe: Recipe
    verdict: Verdict
    own: dict[str, float]


class CandidateBuilder:
    """Makes candidate files of one model and keeps their measurements.

    Args:
        source: The float model.
        fit: Images to calibrate on.
        judge: Measures a file on the held-out samples.
        budget: Limits of a file.
        target: Target of the files.
        settings: Device of learning passes, and bytes of activations held in memory.
        cache: Folder for measurements. None: nothing is stored.
        progress: Called during the work.

    Attributes:
        trials: All attempts so far.
        effects: Effects of the layers, or None before they are measured.
        fewest_bytes: Expected bytes of the smallest file with mixed bits. None unless no choice is within the limit.
    """

    def __init__(
        self,
        source: onnx.ModelProto,
        fit: Dataset,
        judge: Judge,
        budget: Budget,
        target: Target,
        settings: Settings,
        cache: Path | None,
        progress: Progress,
    ) -> None:
        self.source, self.fit, self.judge, self.budget, self.target = source, fit, judge, budget, target
        self.settings, self.progress = settings, progress
        self.cache_folder = cache
        self.trials: list[Trial] = []
        self.effects: Effects | None = None
        self.fewest_bytes: float | None = None
        self._best: Result | None = None
        self._digest = "" if cache is None else model_digest(source)
        self._source = "" if cache is None else source_digest()

    def attempt(self, name: str, recipe: Recipe, predicted: float | None = None) -> Trial:
        """Make a file by a recipe and judge it, or load its measurements from the cache.

        Args:
            name: Name of the rung.
            recipe: Recipe of the file.
            predicted: Expected power of the output's error.
        """
        cache, started = self.cache_of(recipe), time.perf_counter()
        measured = cache.load("attempt")
        if measured is None:
            with log_step(f"attempt {name}"):
                result = self._convert(recipe)
                measured = self._measured(result)
            measured["seconds"] = np.array(time.perf_counter() - started)
            cache.store("attempt", measured)
        else:
            result = None
        trial = self._trial(name, recipe, measured, predicted)
        self.trials.append(trial)
        if best(self.trials, self.budget) is trial:
            self._best = result
        return trial

    def measured(self, recipe: Recipe) -> dict[str, NDArray[Any]]:
        """Make a file by a recipe, and return the measurements that `attempt` would store."""
        started = time.perf_counter()
        return self._measured(self._convert(recipe)) | {"seconds": np.array(time.perf_counter() - started)}

    def effects_of(self, recipe: Recipe) -> Effects:
        """Return the effects of the recipe's layers. They are measured once."""
        if self.effects is None:
            self.effects = measure_effects(
                self.source,
                recipe,
                self.target,
                self.fit,
                self.judge.data,
                self.cache_of(recipe),
                self.settings.memory_budget,
                self.progress,
                self.prepared(recipe).step_cache(),
            )
        return self.effects

    def some_effects(self, recipe: Recipe, part: int, parts: int) -> dict[str, Row]:
        """Return the effects of every ``parts``-th layer, from ``part`` on, as `effects_of` would store them."""
        steps, memory = self.prepared(recipe).step_cache(), self.settings.memory_budget
        return measure_some(self.source, recipe, self.target, self.fit, self.judge.data, memory, part, parts, steps)

    def error_sources(self, recipe: Recipe) -> tuple[ErrorSource, ...]:
        """Return what each rounding of a recipe costs, measured on a few held-out samples, or read from the cache."""
        samples = real_feeds(self.judge.data, _MEASURED)
        return error_sources(self.prepared(recipe), samples, self.cache_of(recipe), self.progress)

    def kept(self) -> Result | None:
        """Return the conversion to keep, or None if no attempt is within the budget.

        The file is made again if only its measurements are in the cache.
        """
        trial = best(self.trials, self.budget)
        if trial is None:
            return None
        if self._best is None:
            result = self._convert(trial.recipe)
            measured = self._measured(result) | {"seconds": np.array(trial.attempt.seconds)}
            remade = self._trial(trial.attempt.name, trial.recipe, measured, None)
            if not remade.attempt.holds:  # another machine or number of threads measured otherwise; this run decides
                self.trials[self.trials.index(trial)] = remade
                return self.kept()
            self._best = result
        return self._best

    def _convert(self, recipe: Recipe) -> Result:
        job = self.prepared(recipe)
        images = dataclasses.replace(job.images, judging=self.judge.data, held_out=True)
        return quantize(dataclasses.replace(job, images=images, warns=False), self.progress)

    def prepared(self, recipe: Recipe) -> Prepared:
        """Return the inputs of a conversion by a recipe, on the images that calibrate."""
        recipe = learning_on(recipe, self.settings.device) if recipe.learns else recipe
        settings = dataclasses.replace(
            self.settings,
            limit=len(self.fit),
            seed=None,
            metric=None,
            prune_channels=None,
            embed_preprocess=None,
            embed_resize=False,
            cache=self.cache_folder,
        )
        return prepare(self.source, self.fit, recipe, self.target, settings=settings)

    def _measured(self, result: Result) -> dict[str, NDArray[Any]]:
        """Return all measurements of a file as arrays."""
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
            "bytes": np.array(serialized_bytes(result.model)),
            "power": np.array(verdict.power),
            "errors": np.zeros(0, np.float32) if verdict.errors is None else verdict.errors,
            "metric_drop": _drop_numbers(verdict),
            "latency": np.array(latency),
        }

    def _trial(self, name: str, recipe: Recipe, measured: dict[str, NDArray[Any]], predicted: float | None) -> Trial:
        facts = json.loads(str(measured["facts"]))
        size, power = int(measured["bytes"]), float(measured["power"])
        latency, speedup = (_or_none(value) for value in measured["latency"])
        verdict = self.judge.verdict(power, measured["errors"] if measured["errors"].size else None)
        if measured["metric_drop"].size:
            verdict = Verdict(power, Drop(*map(float, measured["metric_drop"])), None)
        losses = verdict.drop
        drop = None if losses is None else 100 * losses.judged
        attempt = BudgetAttempt(
            name=name,
            layer_bits=facts["layer_bits"],
            mean_bits=float(measured["mean_bits"]),
            bytes=size,
            drop=drop,
            counted_drop=None if losses is None else 100 * losses.counted,
            drop_error=None if losses is None else 100 * losses.error,
            expected_drop=None if losses is None else 100 * losses.expected,
            sqnr_db=decibel(1.0, power),
            predicted_db=None if predicted is None else decibel(1.0, predicted),
            latency_ms=latency,
            speedup=speedup,
            seconds=float(measured["seconds"]),
            broken=self.budget.broken(drop, size, latency),
        )
        return Trial(attempt, recipe, verdict, facts["own"])

    def cache_of(self, recipe: Recipe) -> Cache:
        """Return the cache of all measurements that depend on this recipe."""
        if self.cache_folder is None:
            return Cache(None, {})
        facts = {
            "model": self._digest,
            "calibration": self.fit.describe(),
            "held_out": self.judge.data.describe(),
            "metric": self.judge.drop_of,
            "recipe": dump_recipe(dataclasses.replace(recipe, description="")),
            "target": self.target.name,
            "source": self._source,
            "versions": versions(),
        } | ({"deterministic": True} if self.settings.deterministic else {})
        return Cache(self.cache_folder, facts)


def _drop_numbers(verdict: Verdict) -> NDArray[np.float64]:
    """Return the drop of a metric as numbers. It is empty for a drop that follows from the errors of scores."""
    if verdict.drop is None or verdict.errors is not None:
        return np.zeros(0)
    return np.array([verdict.drop.counted, verdict.drop.error, verdict.drop.expected])


def best(trials: Sequence[Trial], budget: Budget) -> Trial | None:
    """Return the attempt to keep: the smallest within the budget, or the most accurate if bytes are limited."""
    holding = [trial for trial in trials if trial.attempt.holds]
    if not holding:
        return None
    if budget.wants_smallest:
        return min(holding, key=lambda trial: trial.attempt.bytes)
    return min(holding, key=lambda trial: trial.verdict.power)


def _or_none(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
