"""The command `sensitivity`, its table, JSON, plot and cache; and `convert --min-sqnr`."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.support.command_line import run
from tests.support.graphs import array
from tests.support.outlier_network import SHAPE, with_outlier

DATA = array(48, *SHAPE)


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(with_outlier(), tmp_path / "m.onnx")
    np.savez(tmp_path / "data.npz", x=DATA)
    return tmp_path


def test_a_table_ranks_what_rounding_costs() -> None:
    result = run("sensitivity", "m.onnx", "--data", "data.npz", "--quiet")
    assert result.exit_code == 0
    first = result.output.splitlines()[2]
    assert first.split()[:3] == ["weight", "second", "8"]
    assert "int8 for cpu, 8 samples" in result.output


def test_json_lists_everything_and_a_cache_keeps_it(files: Path) -> None:
    command = ("sensitivity", "m.onnx", "--data", "data.npz", "--json", "--quiet", "--cache", "seen", "--samples", "4")
    first = run(*command)
    content = json.loads(first.stdout)
    assert content["samples"] == 4
    assert content["sources"][0]["names"] == ["second"]
    assert sum(source["share"] for source in content["sources"]) == pytest.approx(1)
    (stored,) = files.glob("seen/*/sensitivity.npz")
    before = stored.stat().st_mtime_ns
    assert run(*command).stdout == first.stdout
    assert stored.stat().st_mtime_ns == before


@pytest.mark.parametrize(("name", "start"), [("plot.png", b"\x89PNG"), ("plot.svg", b"<svg")])
def test_a_plot(files: Path, name: str, start: bytes) -> None:
    pytest.importorskip("vl_convert", reason="plots need convert-onnx[report]")
    result = run("sensitivity", "m.onnx", "--data", "data.npz", "--plot", name, "--quiet")
    assert result.exit_code == 0
    assert f"Wrote {name}" in result.output
    assert (files / name).read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--plot", "plot.gif"), "a plot is a .png or .svg file"),
        (("--recipe", "keep"), "does not choose codes by calibration"),
        (("--samples", "0"), "--samples"),
        (("--exclude", "thrid"), "thrid"),
    ],
)
def test_refusals(arguments: tuple[str, ...], words: str) -> None:
    result = run("sensitivity", "m.onnx", "--data", "data.npz", "--quiet", *arguments)
    assert result.exit_code != 0
    assert words in result.output


def test_min_sqnr_says_what_it_changed(files: Path) -> None:
    convert = ("convert", "m.onnx", "-o", "out.onnx", "--calibration", "data.npz")
    result = run(*convert, "--min-sqnr", "33", "--report", "r.json")
    assert result.exit_code == 0, result.output
    assert "--min-sqnr 33: from" in result.output
    report = json.loads((files / "r.json").read_text())
    assert report["mending"]["after_db"] >= 33
    assert report["fidelity"]["samples"] == 8


def test_min_sqnr_that_is_refused_writes_nothing(files: Path) -> None:
    result = run("convert", "m.onnx", "-o", "out.onnx", "--calibration", "data.npz", "--min-sqnr", "300")
    assert result.exit_code != 0
    assert "--min-sqnr 300 is not above 0 and at most 80 dB" in result.output
    assert not (files / "out.onnx").exists()
