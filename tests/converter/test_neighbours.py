"""A user's own module of the same name is named in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import ROOT


@pytest.mark.parametrize("name", ["passes.py", "passes/__init__.py"])
def test_a_module_that_hides_ours_is_named(tmp_path: Path, name: str) -> None:
    other = tmp_path / name
    other.parent.mkdir(exist_ok=True)
    other.write_text("raise SystemExit('the user\\'s own module ran')")
    script = tmp_path / "script.py"
    script.write_text("import converter\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        f"ImportError: convert-onnx needs its own package `passes`, and Python finds {other}; rename"
    )


def test_nothing_is_said_otherwise(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "import converter; converter.convert"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
