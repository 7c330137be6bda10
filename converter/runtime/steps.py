"""Log messages of steps: the name of a step and its duration."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["log_step"]

_LOG = logging.getLogger(__name__)


@contextmanager
def log_step(name: str) -> Iterator[None]:
    """Log the start and the end of a step. If the step fails, its end is not logged."""
    _LOG.info("%s: started", name)
    started = time.perf_counter()
    yield
    _LOG.info("%s: done in %.2f s", name, time.perf_counter() - started)
