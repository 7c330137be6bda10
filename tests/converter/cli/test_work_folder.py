"""The folder in which a conversion keeps what it has: gone at the end, and read after a kill."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.command_line import CONVERT, names, run

INT4 = (*CONVERT, "--recipe", "int4", "--quiet")


def test_nothing_is_left_beside_the_file(folder: Path) -> None:
    before = names(folder)
    assert run(*INT4).exit_code == 0
    assert names(folder) == before | {"out.onnx"}


def test_a_cache_stays_and_its_size_is_printed(folder: Path) -> None:
    result = run(*CONVERT, "--cache", "kept")
    assert result.exit_code == 0, result.output
    assert "Cache kept: " in result.output
    assert "at most 4.3 GB are kept" in result.output
    assert list(Path("kept").glob("*/statistics.npz"))
    assert "kept" in names(folder)


def test_a_refusal_leaves_nothing(folder: Path) -> None:
    before = names(folder)
    assert run(*INT4, "--exclude", "nothing-is-named-so").exit_code != 0
    assert names(folder) == before


@pytest.mark.slow
def test_a_killed_conversion_goes_on(folder: Path) -> None:
    before = names(folder)
    undisturbed = run(*INT4)
    assert undisturbed.exit_code == 0, undisturbed.output
    expected = Path("out.onnx").read_bytes()
    Path("out.onnx").unlink()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen([sys.executable, "-m", "converter", *INT4], env=environment)
    end = time.monotonic() + 120
    stored: list[Path] = []
    while not stored and process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError):  # a temporary file that got its name meanwhile
            stored = list(Path("out.work").rglob("layer-*.npz"))
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    assert names(folder) - before >= {"out.work"}
    again = run(*INT4)
    assert again.exit_code == 0, again.output
    assert "out.work has measurements of an earlier conversion" in again.stderr
    assert Path("out.onnx").read_bytes() == expected
    assert names(folder) == before | {"out.onnx"}
