"""Signals: not in the middle of an import, and not in the middle of a step that must be whole."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from converter.model_io.signals import signals_held
from tests.support.command_line import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

SLOW = """
import os, signal
def wait():
    os.kill(os.getpid(), signal.{name})
    for _ in range(1000):
        pass
try:
    wait()
    print("loaded", flush=True)
except BaseException as error:
    raise ImportError("initialization failed") from error
"""
COMMAND = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from converter.cli.main import main
import converter.cli.main as cli
def command(**_):
    import slow_library
    print("not reached" if time.sleep(30) else "", flush=True)
cli.cli = command
main()
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_waits_for_the_end_of_an_import(tmp_path: Path, name: str, code: int) -> None:
    (tmp_path / "slow_library.py").write_text(SLOW.format(name=name))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (code, "loaded\n")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl_c", "sigterm"])
def test_a_step_is_not_cut_in_two(number: signal.Signals) -> None:
    class Stopped(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stopped

    def take_steps(number: signal.Signals, steps: list[str]) -> None:
        with signals_held():
            signal.raise_signal(number)
            steps.append("whole")

    steps: list[str] = []
    before = signal.signal(number, stop)
    try:
        with pytest.raises(Stopped):
            take_steps(number, steps)
        assert steps == ["whole"]
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)
