"""Steps, their seconds and their memory."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from converter.pipeline.footprint import Footprint


def test_a_step_has_its_time() -> None:
    footprint = Footprint()
    with footprint.step("wait"):
        time.sleep(0.05)
    with footprint.step("nothing"):
        pass
    first, second = footprint.steps
    assert (first.name, second.name) == ("wait", "nothing")
    assert 0.05 <= first.seconds < 5
    assert second.seconds < first.seconds


LARGE = """
import time

import numpy as np

from converter.pipeline.footprint import Footprint

footprint = Footprint()
with footprint.step("large"):
    held = np.ones(200_000_000, np.uint8)
    time.sleep(0.3)
    del held
with footprint.step("small"):
    time.sleep(0.05)
large, small = footprint.steps
print(large.peak_bytes - small.peak_bytes)
"""


def test_memory_that_is_given_back_is_seen() -> None:
    """In a process of its own: in one that has freed much, nothing grows."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", LARGE], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert int(done.stdout) > 0.9 * 200_000_000


def test_a_step_that_fails_leaves_no_thread_and_is_not_counted() -> None:
    footprint, before = Footprint(), threading.active_count()
    with pytest.raises(ValueError, match="no"), footprint.step("fails"):
        raise ValueError("no")
    assert footprint.steps == ()
    assert threading.active_count() == before
