"""The command line called inside a test, or as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

from converter.cli.main import cli

__all__ = ["CONVERT", "SCALE", "names", "process", "run"]

SCALE = ("--mean", "0.5", "--std", "0.25")
CONVERT = ("convert", "m.onnx", "-o", "out.onnx", "--calibration", "calibration.npz", *SCALE)


def names(folder: Path) -> set[str]:
    """What a folder holds, hidden files too."""
    return {entry.name for entry in folder.iterdir()}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "converter", *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
