"""Relative speeds of model files, timed in turns on one thread, so that other work on the machine affects all alike."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.runtime.latency import interleaved_times
from converter.runtime.runner import Runner

__all__ = ["processor_speedups", "speedups"]


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


def processor_speedups(
    files: Mapping[str, Path], feeds: Mapping[str, NDArray[Any]], *, rounds: int = 60
) -> dict[str, float]:
    """Return the speed of each file relative to the first one, in the least processor time of its runs.

    It serves on a machine that does other work.
    """
    runners = {name: Runner(path, name, threads=1) for name, path in files.items()}
    least = dict.fromkeys(files, np.inf)
    for _ in range(rounds):
        for name, runner in runners.items():
            start = time.process_time()
            runner.execute(dict(feeds))
            least[name] = min(least[name], time.process_time() - start)
    first = next(iter(least.values()))
    return {name: first / seconds for name, seconds in least.items()}
