"""Model files timed in turns on one thread, as ratios: whatever else the machine does meets all of them."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converter.runtime.latency import interleaved_times
from converter.runtime.runner import Runner

__all__ = ["speedups"]


def speedups(
    files: Mapping[str, Path], image: NDArray[np.float32], *, rounds: int = 40, budget: float = 40.0
) -> dict[str, float]:
    """How many times as fast as the first file each one runs ``image`` [1, ...].

    Lower quartiles over the rounds are compared: other work on the machine makes the slow rounds slower.
    """
    runners = [Runner(path, name, threads=1) for name, path in files.items()]
    calls = [partial(runner.execute, runner.inputs({"input": image})) for runner in runners]
    times = interleaved_times(calls, rounds=rounds, budget=budget)
    quick = np.quantile(times, 0.25, axis=0)
    return {name: float(quick[0] / quick[place]) for place, name in enumerate(files)}
