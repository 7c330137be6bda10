"""A folder to work in, as a user of the command line has it."""

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from tests.support.command_line import names
from tests.support.models import save_images, small_cnn

FACTORY = """
from torch import nn

def net(num_classes=5):
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *head)

def broken():
    raise RuntimeError("no weights on this disk")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a model, calibration and evaluation images, and a factory."""
    work, scratch = tmp_path / "work", tmp_path / "tmp"
    work.mkdir()
    scratch.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    onnx.save(small_cnn(), "m.onnx")
    save_images(Path("calibration.npz"), 32)
    save_images(Path("unseen.npz"), 16, seed=2)
    Path("net.py").write_text(FACTORY)
    return work


@pytest.fixture
def unchanged(folder: Path) -> Iterator[None]:
    """The files there are; a test that uses it leaves no other, and no temporary one."""
    files = names(folder)
    yield
    assert names(folder) == files
    assert names(folder.parent / "tmp") == set()
