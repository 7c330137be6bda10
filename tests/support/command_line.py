"""The command line called inside a test, or as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

from converter.cli.main import cli

__all__ = ["CONVERT", "ROOT", "SCALE", "names", "process", "run", "start"]

ROOT = Path(__file__).parents[2]
SCALE = ("--mean", "0.5", "--std", "0.25")
CONVERT = ("convert", "m.onnx", "-o", "out.onnx", "--calibration", "calibration.npz", *SCALE)


def names(folder: Path) -> set[str]:
    """What a folder holds, hidden files too."""
    return {entry.name for entry in folder.iterdir()}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def start(*arguments: str) -> subprocess.Popen[str]:
    """The command line in a process of its own that still runs; a signal reaches it as it reaches one in a terminal."""
    # a shell starts background jobs with Ctrl-C ignored, and children inherit that
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    return subprocess.Popen(
        [sys.executable, "-B", "-u", "-c", f"{listen}; import converter.__main__ as c; c.main()", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "converter", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
