"""The same command gives the same bytes, in another process too."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.support.command_line import CONVERT, SCALE, process
from tests.support.networks import wide


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("int8", ()),
        pytest.param("int4", (), marks=pytest.mark.slow),
        pytest.param("int8-gptq", (), marks=pytest.mark.slow),
        pytest.param("auto", ("--max-bytes", "100000", "--limit", "24"), marks=pytest.mark.slow),
    ],
)
def test_the_same_command_gives_the_same_bytes(folder: Path, recipe: str, options: tuple[str, ...]) -> None:
    written = []
    for seed in ("1", "2"):  # of Python's own hashes, on which the order of a set depends
        done = process(*CONVERT, "--recipe", recipe, *options, "--quiet", PYTHONHASHSEED=seed)
        assert done.returncode == 0, done.stderr
        written.append((folder / "out.onnx").read_bytes())
        (folder / "out.onnx").unlink()
    assert written[0] == written[1]


def on_threads(threads: str, *options: str) -> bytes:
    """Convert with so many threads of BLAS."""
    command = (*CONVERT[: -len(SCALE)], "--recipe", "int4", "--quiet")
    done = process(*command, *options, OPENBLAS_NUM_THREADS=threads, OMP_NUM_THREADS=threads)
    assert done.returncode == 0, done.stderr
    return Path("out.onnx").read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_threads_do_not_change_a_deterministic_file() -> None:
    """They change the file without the option: in a layer of 864 inputs, a few codes lie on the edge."""
    onnx.save(wide(96), "m.onnx")
    x = np.random.default_rng(0).standard_normal((96, 3, 12, 12)).astype(np.float32)
    np.savez("calibration.npz", x=x)
    one, two = (on_threads(threads, "--deterministic") for threads in "12")
    assert one == two
    assert on_threads("2") != one


@pytest.mark.slow
def test_threads_do_not_change_int8(folder: Path) -> None:
    onnx.save(wide(), "m.onnx")
    written = []
    for threads in ("1", "2", "4"):
        done = process(*CONVERT, "--quiet", OPENBLAS_NUM_THREADS=threads)
        assert done.returncode == 0, done.stderr
        written.append((folder / "out.onnx").read_bytes())
    assert written[0] == written[1] == written[2]


def test_the_path_to_the_data_does_not_change_the_file(folder: Path) -> None:
    """A file has the digest of its data. Where they lay is nobody's business."""
    data = CONVERT[CONVERT.index("--calibration") + 1]
    (folder / "elsewhere").mkdir()
    moved = folder / "elsewhere" / "other-name.npz"
    moved.write_bytes((folder / data).read_bytes())
    written = []
    for path in (data, str(moved)):
        done = process(*[path if word == data else word for word in CONVERT], "--quiet")
        assert done.returncode == 0, done.stderr
        written.append((folder / "out.onnx").read_bytes())
        (folder / "out.onnx").unlink()
    assert written[0] == written[1]
    assert b"other-name" not in written[1]
