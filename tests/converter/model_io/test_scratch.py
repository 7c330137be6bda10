"""Temporary folders: removed at the end, and by the next run if the process was killed."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from converter.model_io.scratch import replacing, scratch_folder
from converter.model_io.signals import signals_held
from tests.support.command_line import ROOT, names

HOLD = """
import sys, time
from pathlib import Path
from typing import Any
from converter.model_io.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "part").write_text("half")
    print(folder, flush=True)
    time.sleep(60)
"""


def held(target: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that holds a folder beside the target."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(target)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdout is not None
    return child, Path(child.stdout.readline().strip())


@pytest.mark.skipif(sys.platform == "win32", reason="needs file locks")
def test_the_next_run_removes_what_a_kill_left(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    child, folder = held(target)
    with scratch_folder(target):
        assert folder.exists()  # its process lives
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert (folder / "part").exists()
    with scratch_folder(tmp_path / "other.onnx"):
        assert folder.exists()  # of another output
    with scratch_folder(target) as own:
        assert names(tmp_path) == {own.name}
    assert names(tmp_path) == set()


def test_folders_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / ".out.onnx.mine.tmp").mkdir()
    with scratch_folder(tmp_path / "out.onnx"):
        pass
    assert names(tmp_path) == {".out.onnx.mine.tmp"}


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    target = tmp_path / "r.json"
    target.write_text("old")
    target.chmod(0o640)
    with replacing(target) as written:
        written.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o640
    with pytest.raises(UnicodeEncodeError), replacing(target) as written:
        written.write_text("half \udc80", encoding="utf-8")
    assert target.read_text() == "new"
    assert names(tmp_path) == {"r.json"}


def test_an_empty_folder_of_a_killed_run_is_removed(tmp_path: Path) -> None:
    """The process was killed after it made the folder and before it made the lock, or while it removed the folder."""
    (tmp_path / ".out.onnx.a1b2c3_x.tmp").mkdir()
    (tmp_path / ".out.onnx.a1b2c3_y.tmp").mkdir()
    (tmp_path / ".out.onnx.a1b2c3_y.tmp" / "mine").touch()
    with scratch_folder(tmp_path / "out.onnx"):
        pass
    assert names(tmp_path) == {".out.onnx.a1b2c3_y.tmp"}


def test_who_loses_its_new_folder_to_another_run_takes_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, made = tempfile.mkdtemp, []

    def made_and_lost(**settings: Any) -> str:
        folder: str = make(**settings)
        made.append(folder)
        if len(made) < 3:
            Path(folder).rmdir()
        return folder

    monkeypatch.setattr("tempfile.mkdtemp", made_and_lost)
    with scratch_folder(tmp_path / "out.onnx") as folder:
        assert str(folder) == made[2]


def test_a_signal_just_before_the_removal_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[int] = []

    @contextlib.contextmanager
    def late() -> Iterator[None]:
        entered.append(1)
        if len(entered) == 2:  # the first one makes the folder
            raise KeyboardInterrupt
        with signals_held():
            yield

    monkeypatch.setattr("converter.model_io.scratch.signals_held", late)
    with pytest.raises(KeyboardInterrupt), scratch_folder(tmp_path / "out.onnx") as folder:
        (folder / "part").write_text("half")
    assert names(tmp_path) == set()
    assert len(entered) == 3
