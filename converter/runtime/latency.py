"""How long models take, side by side, so that a slow minute of the machine hits all of them alike.

Every round times each model once, in rotating order; a figure is the median over the rounds. How many times as fast a
model is as another is a ratio within each round, which a slow minute leaves alone; its quartiles say how sure it is.
One thread: the figure is of the kernels, not of threads that wait for each other.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.runtime.runner import Runner

__all__ = ["BATCH", "THREADS", "Latencies", "Quartiles", "interleaved_times", "latencies", "speedup_quartiles"]

Quartiles = tuple[float, float]

BATCH, THREADS = 1, 1  # what every figure is for
_SHORTEST = 0.002  # seconds; what is faster is called several times in a row, so that the clock's grain does not show
_MOST_CALLS = 100
_FEWEST_ROUNDS = 5


@dataclass(frozen=True)
class Latencies:
    """Models timed in turns.

    ms         median milliseconds per image
    quartiles  of how many times as fast as the first model each was: half of the rounds lie between
    """

    ms: tuple[float, ...]
    quartiles: tuple[Quartiles, ...]


def interleaved_times(
    calls: Sequence[Callable[[], object]], *, rounds: int = 30, warmup: int = 2, budget: float = 20.0
) -> NDArray[np.float64]:
    """Seconds per call, [rounds, len(calls)], each round calling all of them, in rotating order.

    rounds   how many to do; fewer, but 5 at least, once `budget` seconds are spent
    warmup   calls of each beforehand that are not counted
    """
    repeats = []
    for call in calls:
        for _ in range(warmup):
            call()
        single = _seconds(call, 1)
        repeats.append(min(_MOST_CALLS, max(1, math.ceil(_SHORTEST / max(single, 1e-9)))))
    times: list[list[float]] = []
    end = time.perf_counter() + budget
    while len(times) < rounds and (len(times) < _FEWEST_ROUNDS or time.perf_counter() < end):
        row = [0.0] * len(calls)
        for offset in range(len(calls)):
            place = (len(times) + offset) % len(calls)
            row[place] = _seconds(calls[place], repeats[place])
        times.append(row)
    return np.array(times)


def latencies(
    models: Sequence[Path],
    feeds: Mapping[str, NDArray[Any]],
    *,
    names: Sequence[str] | None = None,
    rounds: int = 30,
    budget: float = 20.0,
) -> Latencies:
    """Each model file at batch 1 on one thread, timed interleaved.

    feeds   at least one row for every input; a model with a fixed batch size runs on that many copies of the first
            row, and its time is divided by their number
    names   what messages call the models; their paths by default

    Raises ModelError, naming the model, when one cannot be loaded or run.
    """
    called = [str(path) for path in models] if names is None else names
    runners = [Runner(path, name, threads=THREADS) for path, name in zip(models, called, strict=True)]
    times = interleaved_times([_call(runner, feeds) for runner in runners], rounds=rounds, budget=budget)
    times /= np.array([runner.batch or 1 for runner in runners])
    medians = np.median(times, axis=0) * 1e3
    return Latencies(tuple(float(median) for median in medians), speedup_quartiles(times))


def speedup_quartiles(times: NDArray[np.float64]) -> tuple[Quartiles, ...]:
    """Of how many times as fast as the first each of them was, from times [rounds, models]."""
    low, high = np.quantile(times[:, :1] / times, (0.25, 0.75), axis=0)
    return tuple((float(first), float(third)) for first, third in zip(low, high, strict=True))


def _call(runner: Runner, feeds: Mapping[str, NDArray[Any]]) -> Callable[[], object]:
    size = runner.batch or 1
    rows = {name: np.repeat(array[:BATCH], size, 0) for name, array in runner.inputs(feeds).items()}
    return lambda: runner.execute(rows)


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
