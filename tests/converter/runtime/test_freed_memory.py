"""Freed memory is kept for the next array."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import onnx
import pytest

from converter.runtime.freed_memory import is_small, keep_freed_memory, kept_by_children
from tests.support.networks import resnet

FAULTS = """
import resource
import numpy as np
from converter.runtime.freed_memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(10 << 20, np.float32)  # 40 MB: from 32 MB on, glibc returns every block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
LIBRARY, VERSION = platform.libc_ver()
NEW_GLIBC = LIBRARY == "glibc" and tuple(map(int, VERSION.split(".")[:2])) >= (2, 35)
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def page_faults(*, keep: bool, variables: Mapping[str, str] = MappingProxyType({})) -> int:
    """Page faults of a process that makes and frees the same array again and again."""
    # Huge pages would hide the faults: one fault then clears 2 MB.
    script = "import os; os.environ['NUMPY_MADVISE_HUGEPAGE'] = '0'\n" + FAULTS.format(keep=keep)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    environment |= variables
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout)


@pytest.mark.skipif(not NEW_GLIBC, reason="the C library is not glibc 2.35 or newer")
@pytest.mark.skipif(HUGE_PAGES.exists() and "[always]" in HUGE_PAGES.read_text(), reason="all pages are huge")
def test_pages_are_cleared_once() -> None:
    without, with_it = page_faults(keep=False), page_faults(keep=True)
    assert with_it < without / 3


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()


def test_what_the_user_sets_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "131072")
    assert not keep_freed_memory()


@pytest.mark.parametrize(("most", "asked"), [(1 << 25, [(-3, 1 << 28), (-3, 1 << 25), (-1, 1 << 28)]), (0, 2)])
def test_older_versions_of_glibc(most: int, asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They refuse a large threshold. The other parameter alone would do harm, so it is not set then."""
    calls = []

    class Libc:
        def mallopt(self, parameter: int, value: int) -> int:
            calls.append((parameter, value))
            return int(parameter == -1 or value <= most)

    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.31"))
    monkeypatch.setattr("ctypes.CDLL", lambda _: Libc())
    assert keep_freed_memory() == (most > 0)
    assert calls == asked if most else len(calls) == asked


def test_large_models_are_told_by_their_files(tmp_path: Path) -> None:
    model, data = tmp_path / "model.onnx", tmp_path / "weights.bin"
    onnx.save_model(resnet(), model, save_as_external_data=True, location=data.name, size_threshold=0)
    assert is_small(model, None)
    assert is_small("net.py:factory", None)
    with data.open("wb") as file:
        file.truncate(1 << 29)  # takes no room on the disk
    assert not is_small(model)
    assert not is_small("net.py:factory", data)
    model.write_bytes(b"some")
    assert not is_small(model)
    assert not is_small("a" * 5000)  # no file can have this name


def test_child_processes_keep_it_as_their_parent_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.runtime.freed_memory._taken", {})
    assert not kept_by_children()
    monkeypatch.setattr("ctypes.CDLL", lambda _: SimpleNamespace(mallopt=lambda *_: 1))
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_"))]:
        monkeypatch.delenv(name)
    assert keep_freed_memory()
    assert kept_by_children() == {
        "MALLOC_MMAP_THRESHOLD_": str(1 << 28),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 28),
    }


@pytest.mark.skipif(not NEW_GLIBC, reason="the C library is not glibc 2.35 or newer")
@pytest.mark.skipif(HUGE_PAGES.exists() and "[always]" in HUGE_PAGES.read_text(), reason="all pages are huge")
def test_variables_do_what_the_call_does() -> None:
    names = {"MALLOC_MMAP_THRESHOLD_": str(1 << 28), "MALLOC_TRIM_THRESHOLD_": str(1 << 28)}
    assert page_faults(keep=False, variables=names) < page_faults(keep=False) / 3
