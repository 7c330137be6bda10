"""Two commands that would write one file: the second is refused, and takes nothing from the first."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.command_line import CONVERT, SCALE, names, run, start

pytestmark = [
    pytest.mark.usefixtures("folder"),
    pytest.mark.skipif(sys.platform == "win32", reason="needs file locks"),
]

SLEEPER = """
import time
from pathlib import Path

import numpy as np

def batches():
    yield np.zeros((4, 3, 12, 12), np.float32)
    Path(__file__).with_name("started").touch()
    time.sleep(60)
"""
DATA = ("--calibration", "sleeper.py:batches", *SCALE)
WITHIN = ("--max-drop", "5")


@contextmanager
def running(folder: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, which is at work."""
    (folder / "sleeper.py").write_text(SLEEPER)
    with start(*command) as child:
        end = time.monotonic() + 60
        while not (folder / "started").exists() and child.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        try:
            yield child
        finally:
            child.kill()


@pytest.mark.parametrize("options", [(), WITHIN], ids=["convert", "search"])
def test_a_file_that_is_being_made_is_refused(folder: Path, options: tuple[str, ...]) -> None:
    with running(folder, "convert", "m.onnx", "-o", "out.onnx", *DATA, *options) as first:
        before = names(folder)
        second = run(*CONVERT, *options)
        line = f"Error: out.onnx is being written by process {first.pid}; wait until it ends, or give another name\n"
        assert (second.exit_code, second.stderr) == (1, line)
        assert names(folder) == before
        assert run(*CONVERT[:2], "-o", "other.onnx", *CONVERT[4:]).exit_code == 0
        first.send_signal(signal.SIGTERM)
        first.communicate()
    assert run(*CONVERT).exit_code == 0
    assert not {name for name in names(folder) if name.startswith(".")}


def test_a_search_does_not_remove_a_folder_that_another_uses(folder: Path) -> None:
    with running(folder, "convert", "m.onnx", "-o", "a.onnx", *DATA, *WITHIN, "--cache", "out.search") as first:
        second = run(*CONVERT, *WITHIN)
        assert second.exit_code == 1
        assert second.stderr.startswith(f"Error: out.search is being written by process {first.pid};")
        assert (folder / "out.search").exists()


def test_a_checkpoint_that_is_being_written_is_refused(folder: Path) -> None:
    pytest.importorskip("torch")
    train = ("train", "m.onnx", "--data", "sleeper.py:batches", *SCALE, "--checkpoint", "state")
    with running(folder, *train, "-o", "a.onnx") as first:
        second = run(*train, "-o", "b.onnx")
        assert second.exit_code == 1
        assert second.stderr.startswith(f"Error: state is being written by process {first.pid};")
