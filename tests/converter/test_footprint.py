"""Steps, their seconds and their memory."""

import threading
import time

import numpy as np
import psutil
import pytest

from converter.footprint import Footprint


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


def test_memory_that_is_given_back_is_seen() -> None:
    footprint = Footprint()
    size = 200_000_000
    with footprint.step("large"):
        held = np.ones(size, np.uint8)
        time.sleep(0.1)
        del held
    with footprint.step("small"):
        time.sleep(0.05)
    large, small = footprint.steps
    now = psutil.Process().memory_info().rss
    assert large.peak_bytes > now + 0.9 * size
    assert small.peak_bytes < large.peak_bytes - 0.9 * size


def test_a_step_that_fails_leaves_no_thread_and_is_not_counted() -> None:
    footprint, before = Footprint(), threading.active_count()
    with pytest.raises(ValueError, match="no"), footprint.step("fails"):
        raise ValueError("no")
    assert footprint.steps == ()
    assert threading.active_count() == before
