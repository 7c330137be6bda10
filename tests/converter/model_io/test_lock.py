"""Locks: one process at a time, and none after a kill."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from converter.model_io.lock import owned
from passes.errors import OutputError
from tests.support.command_line import ROOT, names

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs file locks")

HOLD = """
import sys, time
from pathlib import Path
from converter.model_io.lock import owned
with owned(Path(sys.argv[1]), shared=bool(int(sys.argv[2]))):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holder(target: Path, *, shared: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the file until it reads a line."""
    command = [sys.executable, "-c", HOLD, str(target), str(int(shared))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_another_process_is_named(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    with holder(target) as process:
        with (
            pytest.raises(OutputError, match=rf"out\.onnx is being written by process {process.pid}; wait"),
            owned(target),
        ):
            pass
        with owned(tmp_path / "other.onnx"):
            pass
        process.communicate("go\n")
    assert names(tmp_path) == set()
    with owned(target):
        assert names(tmp_path) == {".out.onnx.lock"}
    assert names(tmp_path) == set()


def test_a_link_is_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "link.onnx").symlink_to(tmp_path / "out.onnx")
    with (
        holder(tmp_path / "out.onnx"),
        pytest.raises(OutputError, match="is being written"),
        owned(tmp_path / "link.onnx"),
    ):
        pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    with holder(target) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert names(tmp_path) == {".out.onnx.lock"}
    with owned(target):
        pass
    assert names(tmp_path) == set()


def test_a_shared_lock_keeps_only_owners_away(tmp_path: Path) -> None:
    target = tmp_path / "cache"
    with holder(target, shared=True):
        with owned(target, shared=True):
            pass
        assert names(tmp_path) == {".cache.lock"}, "the other process still holds it"
        with pytest.raises(OutputError, match="is being written"), owned(target):
            pass


def test_waiting(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    with holder(target) as process:
        threading.Timer(0.3, process.kill).start()
        with owned(target, wait=True):
            assert process.wait() == -signal.SIGKILL
    assert names(tmp_path) == set()


def test_a_file_system_without_locks_refuses_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", none)
    with owned(tmp_path / "out.onnx"), owned(tmp_path / "out.onnx"):
        assert names(tmp_path) == set()
