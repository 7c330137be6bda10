"""The row of a failed peer says why, and a peer leaves its other files beside its own file."""

import io
import re
from pathlib import Path

import onnx
import pytest

from benchmarks.peers import __main__ as peers
from converter.data.dataset import load_data
from converter.data.inputs import input_specs
from converter.data.preprocess import Preprocess
from converter.report.table import show
from tests.support.models import save_images, small_cnn


def interpreter(folder: Path, lines: str) -> Path:
    """Write a script that runs in place of a peer's Python. "$4" is the file to write, and "$5" is its form."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{lines}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def run(python: Path, out: Path) -> peers.BudgetAttempt:
    return peers.attempt("quark", "W4A8", python, Path("float.onnx"), Path("calibration.npz"), out)


@pytest.mark.parametrize(
    ("lines", "trouble"),
    [
        pytest.param(
            "echo Traceback >&2; echo 'ValueError: only 8 bits' >&2; exit 1", "ValueError: only 8 bits", id="refuses"
        ),
        pytest.param("echo nothing to do; exit 1", "nothing to do", id="refuses_on_stdout"),
        pytest.param("exit 0", "no file was written", id="writes_nothing"),
    ],
)
def test_a_peer_that_fails_says_so(lines: str, trouble: str, tmp_path: Path) -> None:
    assert run(interpreter(tmp_path, lines), tmp_path / "out.onnx").trouble == trouble


def test_a_peer_runs_in_the_folder_of_its_file(tmp_path: Path) -> None:
    out = tmp_path / "made" / "out.onnx"
    out.parent.mkdir()
    result = run(interpreter(tmp_path, 'touch left_behind.csv; echo "$5" > "$4"; echo information; echo 1.5 2.75'), out)
    assert (result.trouble, result.seconds) == ("", 1.5)
    assert result.cpu_seconds == 2.75
    assert out.read_text(encoding="utf-8").strip() == "W4A8"
    assert sorted(path.name for path in out.parent.iterdir()) == ["left_behind.csv", "out.onnx"]


def test_every_peer_has_its_script() -> None:
    for peer in peers.PEERS.values():
        assert Path(peers.__file__).with_name(peer.script).exists()


def test_every_script_measures_time_in_the_same_way() -> None:
    for peer in peers.PEERS.values():
        text = Path(peers.__file__).with_name(peer.script).read_text(encoding="utf-8")
        assert text.count("started, used = time.perf_counter(), time.process_time()\n") == 1
        assert "    print(time.perf_counter() - started, time.process_time() - used)\n\n\nmain(" in text


def test_the_table_has_seconds_and_cpu_seconds(tmp_path: Path) -> None:
    model, data = small_cnn(), save_images(tmp_path / "images.npz", 8)
    onnx.save(model, tmp_path / "float.onnx")
    images = load_data(data, input_specs(model), preprocess=Preprocess(mean=(0.5,), std=(0.25,)))
    made = peers.BudgetAttempt("aimet", "W4A8", tmp_path / "float.onnx", 53.0, 104.0)
    refused = peers.BudgetAttempt("quark", "W4A8", tmp_path / "none", trouble="only 8 bits")
    text = io.StringIO()
    show([peers._table(tmp_path / "float.onnx", [made, refused], images)], text)
    assert re.search(r"conversion +CPU\n", text.getvalue())
    assert re.search(r"aimet +W4A8 .* 53 s +104 s\n", text.getvalue())
    assert re.search(r"quark +W4A8 +only 8 bits", text.getvalue())
