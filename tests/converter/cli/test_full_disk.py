"""A full disk at every step of every command that writes: nothing half-written, one line that names the place."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import onnxruntime
import pytest

from tests.support.command_line import CONVERT, SCALE, names, run
from tests.support.full_disk import FullDisk
from tests.support.models import save_images

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc for the names of files")

BATCHES = """
import numpy as np

def batches():
    for _ in range(4):
        yield np.zeros((8, 3, 12, 12), np.float32)
"""
COMMANDS: dict[str, tuple[str, ...]] = {
    "file": (*CONVERT, "--report", "r.json"),
    "batches": ("convert", "m.onnx", "-o", "out.onnx", "--calibration", "batches.py:batches"),
    "search": (*CONVERT, "--max-bytes", "100000", "--limit", "24"),
    "train": ("train", "m.onnx", "-o", "out.onnx", "--data", "train.npz", "--batch", "8", "--epochs", "1", *SCALE),
}
VARYING = re.compile(r"\.[a-z0-9_]{8}\.|attempt-\w+|[0-9a-f]{16}|\d+|-[a-z0-9_]{8}\b")
EVERY = {"file", "batches"}
"""Commands of which every step fails once. Of the others, which take longer, one step of each kind does."""

KEPT = {"out.onnx", "r.json", "out.search", "out.checkpoint"}
"""What may be there after a failure: whole files, and the work so far."""


def failure(folder: Path, command: Sequence[str], first: int, *, lasting: bool, old: bytes | None) -> list[str]:
    """Run a command on a disk that is full from a step on, and check what it leaves. Return the steps."""
    out = folder / "out.onnx"
    for name in KEPT & names(folder) - {"out.search"}:
        (folder / name).unlink()
    if old is not None:
        out.write_bytes(old)
    before = names(folder)
    with pytest.MonkeyPatch.context() as patch:
        disk = FullDisk(folder.parent, patch, first, lasting=lasting)
        result = run(*command, "--quiet")
    failed = disk.steps[first - 1] if 0 < first <= len(disk.steps) else "no step"
    left = names(folder) - before - KEPT
    assert not left, (failed, left)
    assert not {name for name in names(folder.parent / "tmp") if "torchinductor" not in name}, failed  # torch's cache
    if out.exists() and out.read_bytes() != old:
        onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    if result.exit_code == 0:
        assert out.exists(), failed
        return disk.steps
    *warnings, line = result.stderr.splitlines()
    assert all(warning.startswith("Warning: ") for warning in warnings), failed
    assert result.exit_code == 1, (failed, line)
    assert line.startswith("Error: "), (failed, line)
    assert "no space left" in line.lower(), (failed, line)
    assert any(place in line for place in (str(folder.parent), "out.", "r.json")), (failed, line)
    return disk.steps


def one_of_each_kind(steps: Sequence[str]) -> list[int]:
    """Numbers of the steps that differ in more than digits and random names."""
    kinds: dict[str, int] = {}
    for number, step in enumerate(steps, 1):
        kinds.setdefault(VARYING.sub("*", step), number)
    return list(kinds.values())


@pytest.mark.slow
@pytest.mark.parametrize(("old", "lasting"), [(True, True), (False, False)], ids=["replaced_lasting", "new_once"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk(folder: Path, name: str, old: bool, lasting: bool) -> None:
    if name == "train":
        pytest.importorskip("torch")
    save_images(folder / "train.npz", 40)
    (folder / "batches.py").write_text(BATCHES)
    content = (folder / "m.onnx").read_bytes() if old else None
    steps = failure(folder, COMMANDS[name], 0, lasting=lasting, old=content)
    assert any("out.onnx" in step for step in steps)
    for first in range(1, len(steps) + 1) if name in EVERY else one_of_each_kind(steps):
        failure(folder, COMMANDS[name], first, lasting=lasting, old=content)
    result = run(*COMMANDS[name], "--quiet")
    assert result.exit_code == 0, result.output
    assert names(folder) & KEPT == {"out.onnx", *({"r.json"} if name == "file" else ())}
