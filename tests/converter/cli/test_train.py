"""The command `train`: a file in one command, and the same command again after a kill."""

import json
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.support.command_line import SCALE, names, run, start  # noqa: E402
from tests.support.models import images, save_images  # noqa: E402

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
    assert re.search(r"^qat: (learned from labels|gained nothing)", result.stdout, re.MULTILINE)
    assert "calibrated on 36 images\ntrained on 36 images\nepoch chosen on 4 others\n" in result.stdout
    training = json.loads((folder / "r.json").read_text())["training"]
    assert (training["source"], training["images"], training["held_out"]) == ("train.npz", 40, 4)
    assert not (folder / "out.checkpoint").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--recipe", "int8"), "recipe 'int8' has no pass that trains"),
        (("--rate", "nan"), "the training's rate must be positive, not nan"),
        (("--rate", "inf"), "the training's rate must be finite, not inf"),
        (("--checkpoint", "m.onnx"), "--checkpoint m.onnx would overwrite MODEL m.onnx"),
        (("--checkpoint", "nowhere/c"), "does not exist"),
        (("--device", "cuda"), "no CUDA device"),
    ],
)
def test_refusals(folder: Path, options: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
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


def stopped(command: tuple[str, ...], by: signal.Signals, *, at: Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, which gets the signal once the file is there."""
    child = start(*command)
    end = time.monotonic() + 60
    while not at.exists() and child.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    child.send_signal(by)
    stdout, stderr = child.communicate(timeout=60)
    return subprocess.CompletedProcess(command, child.returncode, stdout, stderr)


@pytest.mark.slow
def test_after_a_kill_the_same_command_goes_on(folder: Path) -> None:
    command = (*TRAIN, "--epochs", "60")
    killed = stopped(command, signal.SIGKILL, at=folder / "out.checkpoint")
    assert killed.returncode == -signal.SIGKILL
    assert not (folder / "out.onnx").exists()
    other = run(*TRAIN, "--epochs", "1")
    assert "out.checkpoint belongs to another training" in other.stderr
    assert "going on" not in other.stderr
    again = run(*command)
    assert again.exit_code == 0, again.output
    assert re.search(r"continuing from out\.checkpoint, after epoch \d+ of 60\n", again.stderr)
    assert "Wrote out.onnx" in again.stdout
    assert not (folder / "out.checkpoint").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_who_stops_it_is_told_how_it_goes_on(folder: Path) -> None:
    done = stopped((*TRAIN, "--epochs", "600"), signal.SIGINT, at=folder / "out.checkpoint")
    kept = "out.checkpoint has the work so far; the same command continues from there"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (130, f"Interrupted; {kept}")
    assert names(folder) >= {"out.checkpoint"}
    assert not (folder / "out.onnx").exists()


def test_stopped_before_there_is_something_to_keep(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.pipeline.train.convert", interrupted)
    assert run(*TRAIN).stderr == "Interrupted; there was nothing to keep in out.checkpoint yet\n"
    with zipfile.ZipFile(folder / "out.checkpoint", "w") as file:
        file.writestr("of", "some training")
    assert run(*TRAIN).stderr == "Interrupted; out.checkpoint is unchanged\n"


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
