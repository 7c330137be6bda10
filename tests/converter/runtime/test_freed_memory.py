"""Freed memory is kept for the next array."""

import platform
import subprocess
import sys

import pytest

from converter.runtime.freed_memory import keep_freed_memory

FAULTS = """
import resource, sys
import numpy as np
from converter.runtime.freed_memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
for _ in range(20):
    np.ones(1 << 23, np.float32)  # 32 MB: above what glibc keeps by itself
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def page_faults(*, keep: bool) -> int:
    """Page faults of a process that makes and frees the same array again and again."""
    # Huge pages would hide the faults: one fault then clears 2 MB.
    script = "import os; os.environ['NUMPY_MADVISE_HUGEPAGE'] = '0'\n" + FAULTS.format(keep=keep)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_pages_are_cleared_once() -> None:
    without, with_it = page_faults(keep=False), page_faults(keep=True)
    assert with_it < without / 3


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
