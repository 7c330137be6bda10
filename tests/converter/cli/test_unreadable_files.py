"""Files that are not what their names say: refused at once, in words of our own."""

import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from converter.cache.folder import Cache
from passes.errors import DataError
from tests.support.command_line import run

FOREIGN = ("pickle", "unsafe", "Object arrays", "BadZip", "zipfile", "numpy", "incompatible function", "protocol")
CONVERT = ("convert", "m.onnx", "-o", "out.onnx", "--calibration")


def npz(**arrays: Any) -> bytes:
    np.savez("made.npz", **arrays)
    return Path("made.npz").read_bytes()


CONTENTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "it is empty"),
    "text": (lambda: b"hello", "it is not an .npz archive"),
    "pickled": (lambda: pickle.dumps([1, 2]), "it is not an .npz archive"),
    "single": (lambda: b"\x93NUMPY\x01\x00", "it is a single array"),
    "truncated": (lambda: npz(x=np.zeros(99))[:300], "it is truncated"),
    "damaged": (lambda: npz(x=np.zeros(99)).replace(b"descr", b"xxxxx"), "it is damaged"),
    "objects": (lambda: npz(x=np.array([1, "a"], dtype=object)), "it has an array of Python objects"),
}


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("option", ["--calibration", "--weights"])
def test_an_npz_that_cannot_be_read(folder: Path, kind: str, option: str) -> None:
    make, words = CONTENTS[kind]
    (folder / "bad.npz").write_bytes(make())
    command: tuple[str, ...]
    if option == "--weights":
        pytest.importorskip("torch")
        command = ("export", "net.py:net", "-o", "out.onnx", "--input-shape", "1,3,12,12", "--weights", "bad.npz")
    else:
        command = (*CONVERT, "bad.npz")
    result = run(*command)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: bad.npz cannot be read as .npz: {words}"), result.stderr
    assert not [word for word in FOREIGN if word in result.stderr.replace("np.savez", "")]


@pytest.fixture
def alarm() -> Iterator[None]:
    """A command that waits for a pipe is stopped, so that the test fails and does not hang."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes")
@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "pipe.onnx"),
        ("verify", "pipe.onnx", "--target", "cpu"),
        ("compare", "m.onnx", "pipe.onnx", "--data", "unseen.npz"),
        ("evaluate", "pipe.onnx", "--data", "unseen.npz"),
        ("evaluate", "m.onnx", "--data", "pipe.npz"),
        ("convert", "pipe.onnx", "-o", "out.onnx", "--calibration", "unseen.npz"),
        (*CONVERT, "pipe.npz"),
        (*CONVERT, "pipes"),
        (*CONVERT, "calibration.npz", "--recipe", "pipe.toml"),
        (*CONVERT, "calibration.npz", "--recipe", "pipe.onnx"),
        (*CONVERT, "calibration.npz", "--evaluate", "pipe.npz"),
    ],
    ids=" ".join,
)
def test_a_named_pipe_is_refused(folder: Path, command: tuple[str, ...]) -> None:
    (folder / "pipes").mkdir()
    for name in ("pipe.onnx", "pipe.npz", "pipe.toml", "pipes/a.png"):
        os.mkfifo(folder / name)
    result = run(*command)
    assert result.exit_code in {1, 2}
    assert "is a named pipe, not a" in result.stderr.splitlines()[-1]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names are bytes")
@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "m\udcff.onnx"),
        ("evaluate", "m\udcff.onnx", "--data", "unseen.npz"),
        ("convert", "m\udcff.onnx", "-o", "out.onnx", "--calibration", "calibration.npz"),
        ("convert", "m.onnx", "-o", "out\udcff.onnx", "--calibration", "calibration.npz"),
        ("convert", "m.onnx", "-o", "\udcff/out.onnx", "--calibration", "calibration.npz"),
        (*CONVERT, "calibration.npz", "--report", "\udcff.json"),
    ],
    ids=ascii,
)
def test_a_name_that_is_not_utf8_is_refused(folder: Path, command: tuple[str, ...]) -> None:
    (folder / "m\udcff.onnx").write_bytes((folder / "m.onnx").read_bytes())
    (folder / "\udcff").mkdir()
    result = run(*command)
    assert result.exit_code == 1
    assert "is not UTF-8, which onnxruntime needs" in result.stderr
    assert "\\udcff" in result.stderr


def pictures(folder: Path) -> None:
    for name in ("a", "b", "c"):
        (folder / "images" / name).mkdir(parents=True)
        for index in range(2):
            pixels = np.random.default_rng(index).integers(0, 256, (12, 12, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{index}.png")


def test_a_folder_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """root, as in CI, may read everything: the system's answer is put in its place."""
    pictures(folder)
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr("os.scandir", refuse)
    result = run(*CONVERT, "images")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (
        1,
        "Error: images/b: the folder cannot be read (Permission denied); allow it or remove it",
    )


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links")
def test_a_link_to_a_folder_above_repeats_no_image(folder: Path) -> None:
    pictures(folder)
    (folder / "images" / "a" / "again").symlink_to(folder / "images")
    result = run("evaluate", "m.onnx", "--data", "images")
    assert "6 images" in result.output, result.output


@pytest.mark.usefixtures("folder")
def test_a_label_that_would_wrap_around() -> None:
    data = dict(np.load("calibration.npz"))
    labels = np.full(len(data["x"]), 2**64 - 1, np.uint64)
    np.savez("wrapped.npz", x=data["x"], y=labels)
    result = run("evaluate", "m.onnx", "--data", "wrapped.npz")
    assert result.exit_code == 1
    assert "label 18446744073709551615 of sample 0 is out of range" in result.stderr


def test_a_measurement_of_another_name_is_refused(tmp_path: Path) -> None:
    cache = Cache(tmp_path, {})
    cache.store("effect-0001", {"own": np.zeros(3)})
    assert cache.folder is not None
    (cache.folder / "effect-0001.npz").rename(cache.folder / "effect-0002.npz")
    with pytest.raises(DataError, match=r"effect-0002\.npz is not of this search; delete it"):
        cache.load("effect-0002")
