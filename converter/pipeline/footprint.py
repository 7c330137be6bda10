"""Time and memory of a conversion: seconds and peak resident size of every step."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

__all__ = ["Footprint", "Step"]

_LOG = logging.getLogger(__name__)

_INTERVAL = 0.01  # seconds between two samples of the memory; a shorter peak can be missed


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: Name of the step.
        seconds: Duration.
        peak_bytes: Peak resident size of the process, sampled every 10 ms.
    """

    name: str
    seconds: float
    peak_bytes: int


class Footprint:
    """Record of the steps of a conversion, in order.

    Args:
        clock: Function that returns the time in seconds.

    >>> footprint = Footprint()
    >>> with footprint.step("open"):
    ...     pass
    >>> [step.name for step in footprint.steps]
    ['open']
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._steps: list[Step] = []
        self._clock = clock
        self._started = clock()

    @property
    def seconds(self) -> float:
        """Seconds since the conversion began."""
        return self._clock() - self._started

    @property
    def steps(self) -> tuple[Step, ...]:
        """Completed steps, in order."""
        return tuple(self._steps)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure the `with` block as one step. Log its start and its end. A step that fails is not counted."""
        _LOG.info("%s: started", name)
        process, done = psutil.Process(), threading.Event()
        sizes = [process.memory_info().rss]

        def watch() -> None:
            while not done.wait(_INTERVAL):
                sizes[0] = max(sizes[0], process.memory_info().rss)

        watcher = threading.Thread(target=watch, name=f"footprint {name}", daemon=True)
        watcher.start()
        started = self._clock()
        try:
            yield
        finally:
            seconds = self._clock() - started
            done.set()
            watcher.join()
        step = Step(name, seconds, max(sizes[0], process.memory_info().rss))
        self._steps.append(step)
        _LOG.info("%s: done in %.2f s, peak memory %.0f MB", name, seconds, step.peak_bytes / 1e6)
