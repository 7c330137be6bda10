"""The user's code may do what it likes, sys.exit(0) too: the command fails with one line, and says where."""

import signal
from pathlib import Path

import pytest

from converter.model_io.user_code import Terminated, user_code
from passes.errors import DataError
from tests.support.command_line import run

pytestmark = pytest.mark.usefixtures("folder")

QUITS = """
import sys
import numpy as np
from torch import nn

def at_once():
    sys.exit(0)

def later():
    yield np.zeros((4, 3, 12, 12), np.float32)
    sys.exit(0)

class Batches:
    def __iter__(self):
        sys.exit(0)

def iterating():
    return Batches()

def factory():
    sys.exit(0)

class Net(nn.Conv2d):
    def forward(self, x):
        sys.exit(0)

def forwarding():
    return Net(3, 4, 3)

def sized(count, side=12):
    yield np.random.default_rng(0).standard_normal((count, 3, side, side), np.float32)

array = np.zeros((4, 3, 12, 12), np.float32)
"""


@pytest.mark.parametrize("name", ["at_once", "later", "iterating"])
def test_data_that_exit(folder: Path, name: str) -> None:
    pytest.importorskip("torch")
    (folder / "quits.py").write_text(QUITS)
    result = run("convert", "m.onnx", "-o", "out.onnx", "--calibration", f"quits.py:{name}")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: quits.py:{name} raised SystemExit: 0 (quits.py, line ")
    assert not (folder / "out.onnx").exists()


@pytest.mark.parametrize("name", ["factory", "forwarding"])
@pytest.mark.parametrize("command", ["convert", "export"])
def test_models_that_exit(folder: Path, name: str, command: str) -> None:
    pytest.importorskip("torch")
    (folder / "quits.py").write_text(QUITS)
    data = ("--calibration", "calibration.npz") if command == "convert" else ()
    result = run(command, f"quits.py:{name}", "-o", "out.onnx", "--input-shape", "1,3,12,12", *data)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "SystemExit: 0" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (folder / "out.onnx").exists()


def test_a_file_that_exits_while_it_loads(folder: Path) -> None:
    (folder / "quits.py").write_text("import sys\nsys.exit(0)\n")
    result = run("convert", "m.onnx", "-o", "out.onnx", "--calibration", "quits.py:batches")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "quits.py: loading it raised SystemExit: 0" in result.stderr


def test_a_signal_gets_through() -> None:
    with pytest.raises(Terminated) as caught, user_code("data.py:f", DataError):
        raise Terminated(128 + signal.SIGTERM)
    assert caught.value.code == 143


def test_data_take_arguments_as_factories_do(folder: Path) -> None:
    pytest.importorskip("torch")
    (folder / "quits.py").write_text(QUITS)

    def convert(data: str) -> tuple[int, str]:
        result = run("convert", "m.onnx", "-o", "out.onnx", "--calibration", data)
        return result.exit_code, result.stderr.splitlines()[-1] if result.stderr else ""

    assert convert("quits.py:sized(count=33)") == (0, "")
    assert convert("quits.py:sized(count=33, side=9)")[0] == 1
    for data, words in (
        ("quits.py:sized", "takes (count, side=12): missing a required argument: 'count'"),
        ("quits.py:sized(33)", "arguments must be named"),
        ("quits.py:array(count=2)", "takes no arguments"),
        ("quits.py:sized(count={[]: 1})", "is not a literal"),
    ):
        code, line = convert(data)
        assert code == 2, line
        assert words in line
