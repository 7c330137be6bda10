"""Relative speeds of model files, timed in turns on one thread, so that other work on the machine affects all alike."""

import itertools
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converter.runtime.latency import interleaved_times
from converter.runtime.runner import Runner

__all__ = ["cpu_speedups", "speedups"]

_ROUNDS, _RUNS = 20, 5


def speedups(
    files: Mapping[str, Path], image: NDArray[np.float32], *, rounds: int = 40, budget: float = 40.0
) -> dict[str, float]:
    """Return the speed of each file relative to the first one, on ``image`` [1, ...].

    Lower quartiles over the rounds are compared, because other work on the machine affects the slower rounds.
    """
    runners = [Runner(path, name, threads=1) for name, path in files.items()]
    calls = [partial(runner.execute, runner.inputs({"input": image})) for runner in runners]
    times = interleaved_times(calls, rounds=rounds, budget=budget)
    quick = np.quantile(times, 0.25, axis=0)
    return {name: float(quick[0] / quick[index]) for index, name in enumerate(files)}


def cpu_speedups(files: Mapping[str, Path], values: NDArray[np.float32]) -> dict[str, float]:
    """Return the speed of each file relative to the first one, by the processor time of its runs on one thread.

    Files run in turns, and lower quartiles are compared. Time in which the processor does other work does not count.
    """
    runners = [Runner(path, name, threads=1, keep=False) for name, path in files.items()]
    spent = np.zeros((_ROUNDS, len(runners)))
    for turn, place in itertools.product(range(_ROUNDS), range(len(runners))):
        feeds = runners[place].inputs({"input": values})
        started = time.thread_time()
        for _ in range(_RUNS):
            runners[place].execute(feeds)
        spent[turn, place] = time.thread_time() - started
    quick = np.quantile(spent[1:], 0.25, axis=0)  # the first turn warms up
    return {name: float(quick[0] / quick[place]) for place, name in enumerate(files)}
