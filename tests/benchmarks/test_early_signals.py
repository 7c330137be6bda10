"""Signals while libraries load: a sample of what `python -m benchmarks.early_signals` sends."""

import sys

import pytest

from benchmarks.early_signals import main


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_signals_while_libraries_load(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--count", "6"]) == 0, capsys.readouterr().out
