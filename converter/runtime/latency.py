"""Latency of models, measured side by side, so that a slow minute of the machine affects all of them alike.

Every round times each model once, in rotating order. A model's latency is the median over the rounds. The speedup over
another model is a ratio within each round, so a slow minute does not change it. Its quartiles show how certain it is.
Models run on one thread. So the figure measures the kernels, and not threads that wait for each other.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.data.dataset import Batch
from converter.runtime.runner import Runner

__all__ = ["BATCH", "THREADS", "Latencies", "Quartiles", "interleaved_times", "latencies", "speedup_quartiles"]

Quartiles = tuple[float, float]

BATCH, THREADS = 1, 1  # of every measurement
_SHORTEST = 0.002  # seconds; a faster model is called several times in a row, because the clock's resolution is limited
_MOST_CALLS = 100
_FEWEST_ROUNDS = 5


@dataclass(frozen=True)
class Latencies:
    """Latencies of models that were timed in turns.

    Attributes:
        ms: Median milliseconds per image, for each model.
        quartiles: First and third quartile of each model's speedup over the first model.
    """

    ms: tuple[float, ...]
    quartiles: tuple[Quartiles, ...]


def interleaved_times(
    calls: Sequence[Callable[[], object]],
    *,
    rounds: int = 30,
    warmup: int = 2,
    budget: float = 20.0,
    fewest: int = _FEWEST_ROUNDS,
) -> NDArray[np.float64]:
    """Time several calls. Each round calls all of them, in rotating order.

    Args:
        calls: The calls.
        rounds: Number of rounds. Fewer, but at least ``fewest``, if the budget is spent.
        warmup: Calls of each before the measurement.
        budget: Seconds for all rounds.
        fewest: Rounds that are measured whatever they take.

    Returns:
        Seconds per call, [rounds, len(calls)].
    """
    repeats = []
    for call in calls:
        for _ in range(warmup):
            call()
        single = _seconds(call, 1)
        repeats.append(min(_MOST_CALLS, max(1, math.ceil(_SHORTEST / max(single, 1e-9)))))
    times: list[list[float]] = []
    end = time.perf_counter() + budget
    while len(times) < rounds and (len(times) < fewest or time.perf_counter() < end):
        row = [0.0] * len(calls)
        for offset in range(len(calls)):
            index = (len(times) + offset) % len(calls)
            row[index] = _seconds(calls[index], repeats[index])
        times.append(row)
    return np.array(times)


def latencies(
    models: Sequence[Path | onnx.ModelProto],
    sample: Batch,
    *,
    names: Sequence[str] | None = None,
    rounds: int = 30,
    warmup: int = 2,
    budget: float = 20.0,
    fewest: int = _FEWEST_ROUNDS,
) -> Latencies:
    """Time models interleaved, at batch 1 on one thread.

    Args:
        models: The files, or models in memory.
        sample: At least one row, or one whole run. A model with a fixed batch size runs on that many copies of the
            first row, and its time is divided by their number.
        names: Names of the models in messages. The default is their paths.
        rounds, warmup, budget, fewest: See `interleaved_times`.

    Raises:
        ModelError: A model cannot be loaded or run. The message names it.
    """
    shown = [str(path) if isinstance(path, Path) else "the model" for path in models] if names is None else names
    runners = [Runner(path, name, threads=THREADS) for path, name in zip(models, shown, strict=True)]
    calls = [_call(runner, sample) for runner in runners]
    times = interleaved_times(calls, rounds=rounds, warmup=warmup, budget=budget, fewest=fewest)
    times /= np.array([1 if sample.whole else runner.batch or 1 for runner in runners])
    medians = np.median(times, axis=0) * 1e3
    return Latencies(tuple(float(median) for median in medians), speedup_quartiles(times))


def speedup_quartiles(times: NDArray[np.float64]) -> tuple[Quartiles, ...]:
    """Quartiles of each model's speedup over the first, from times [rounds, models]."""
    low, high = np.quantile(times[:, :1] / times, (0.25, 0.75), axis=0)
    return tuple((float(first), float(third)) for first, third in zip(low, high, strict=True))


def _call(runner: Runner, sample: Batch) -> Callable[[], object]:
    inputs = runner.inputs(sample.feeds)
    if not sample.whole:
        inputs = {name: np.repeat(array[:BATCH], runner.batch or 1, 0) for name, array in inputs.items()}
    return lambda: runner.execute(inputs)


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
