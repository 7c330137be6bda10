"""The command `train`: a file in one command, and the same command again after a kill."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.command_line import SCALE, names, run  # noqa: E402
from tests.models_zoo import images, save_images  # noqa: E402

pytestmark = pytest.mark.usefixtures("folder")

TRAIN = ("train", "m.onnx", "-o", "out.onnx", "--data", "train.npz", "--batch", "8", *SCALE)


@pytest.fixture(autouse=True)
def training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Images to train on, and one thread: small tensors are slower in several."""
    save_images(folder / "train.npz", 40)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_file_in_one_command(folder: Path) -> None:
    result = run(*TRAIN, "--epochs", "1", "--flip", "--shift", "1", "--report", "r.json")
    assert result.exit_code == 0, result.output
    assert "Wrote out.onnx (int4-qat, cpu)" in result.stdout
    assert (folder / "r.json").exists()
    assert not (folder / "out.checkpoint").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--recipe", "int8"), "recipe 'int8' trains nothing"),
        (("--rate", "nan"), "the training's rate must be positive, not nan"),
        (("--checkpoint", "m.onnx"), "--checkpoint m.onnx would overwrite MODEL m.onnx"),
        (("--checkpoint", "nowhere/c"), "does not exist"),
        (("--device", "cuda"), "no CUDA device"),
    ],
)
def test_refusals(folder: Path, options: tuple[str, ...], message: str) -> None:
    before = names(folder)
    result = run(*TRAIN, *options)
    assert result.exit_code in {1, 2}
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert names(folder) == before


def test_objective_labels_wants_labels(folder: Path) -> None:
    np.savez(folder / "train.npz", x=images(40))
    result = run(*TRAIN, "--objective", "labels")
    assert result.exit_code == 1
    assert "train.npz has no labels; --objective float" in result.stderr


def test_what_is_no_checkpoint_is_not_lost(folder: Path) -> None:
    (folder / "out.checkpoint").write_text("notes of mine")
    result = run(*TRAIN, "--epochs", "1")
    assert result.exit_code == 2
    assert "out.checkpoint is not a checkpoint" in result.stderr
    assert (folder / "out.checkpoint").read_text() == "notes of mine"
    assert not (folder / "out.onnx").exists()


def test_after_a_kill_the_same_command_goes_on(folder: Path) -> None:
    command = (*TRAIN, "--epochs", "60")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-m", "converter", *command], env=environment) as child:
        end = time.monotonic() + 60
        while not (folder / "out.checkpoint").exists() and child.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert not (folder / "out.onnx").exists()
    other = run(*TRAIN, "--epochs", "1")
    assert "out.checkpoint is of another training" in other.stderr
    again = run(*command)
    assert again.exit_code == 0, again.output
    assert "going on from out.checkpoint" in again.stderr
    assert "Wrote out.onnx" in again.stdout
    assert not (folder / "out.checkpoint").exists()
