"""Steps, their seconds and their memory."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from converter.pipeline.footprint import Footprint


def test_a_step_has_the_time_between_its_start_and_its_end() -> None:
    footprint = Footprint(iter([10.0, 11.0, 14.0, 15.0, 15.5, 20.0]).__next__)
    with footprint.step("first"):
        pass
    with footprint.step("second"):
        pass
    assert [(step.name, step.seconds) for step in footprint.steps] == [("first", 3.0), ("second", 0.5)]
    assert footprint.seconds == 10.0


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
