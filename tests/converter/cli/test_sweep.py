"""The command `sweep`: its table, JSON, CSV, page and exit codes, and what it refuses."""

import csv
import importlib.util
import json
from pathlib import Path

import pytest

from tests.support.command_line import SCALE, names, run

SWEEP = ("sweep", "m.onnx", "-o", "out", "--calibration", "calibration.npz", *SCALE, "--no-timing", "--quiet")
FAST = ("--recipe", "int8-weight-only", "--recipe", "int4-weight-only-rtn")
PLAN = """
recipes = ["int8-weight-only"]
targets = ["cpu", "generic"]
calibration = "calibration.npz"
timing = false
preprocess = { mean = [0.5], std = [0.25] }
models = ["m.onnx"]
"""


@pytest.mark.usefixtures("folder")
def test_a_table_json_csv_and_a_page() -> None:
    pytest.importorskip("vl_convert", reason="pages need convert-onnx[report]")
    result = run(*SWEEP, *FAST)
    assert result.exit_code == 0, result.output
    assert "int4-weight-only-rtn" in result.output
    assert names(Path("out")) == {"rows", "files", "sweep.json", "sweep.csv", "sweep.html"}
    content = json.loads(Path("out/sweep.json").read_text())
    assert [row["recipe"] for row in content["rows"]] == ["int8-weight-only", "int4-weight-only-rtn"]
    with Path("out/sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["bytes"]) for row in rows] == [row["bytes"] for row in content["rows"]]
    page = Path("out/sweep.html").read_text()
    assert 'id="alternatives-0"' in page
    assert "int4-weight-only-rtn" in page


@pytest.mark.usefixtures("folder")
def test_a_file_says_the_same() -> None:
    Path("plan.toml").write_text(PLAN)
    result = run("sweep", "plan.toml", "-o", "out", "--quiet", "--json", "--no-page", "--no-files")
    assert result.exit_code == 0, result.output
    assert [row["target"] for row in json.loads(result.stdout)["rows"]] == ["cpu", "generic"]
    assert names(Path("out")) == {"rows", "files", "sweep.json", "sweep.csv"}
    assert names(Path("out/files")) == set()


@pytest.mark.usefixtures("folder")
def test_the_exit_code_says_that_a_conversion_failed() -> None:
    arguments = (*SWEEP, "--recipe", "int8-weight-only", "--no-page")
    result = run(*arguments, "--exclude", "nowhere")
    assert result.exit_code == 5
    assert "1 of 1 conversions failed, the first is m with int8-weight-only for cpu: " in result.output
    assert "nowhere" in result.output
    assert json.loads(Path("out/sweep.json").read_text())["rows"][0]["failure"]
    assert run(*arguments).exit_code == 0


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (SWEEP, "give --recipe once or several times"),
        ((*SWEEP, "--recipe", "int9"), "no recipe is named 'int9'"),
        ((*SWEEP, *FAST, "--target", "gpu"), "gpu"),
        ((*SWEEP, *FAST, "--bits", "9"), "--bits"),
        ((*SWEEP, "--recipe", "keep", "--bits", "4"), "leave its --bits out"),
        ((*SWEEP, *FAST, "--metric", "map"), "--metric would measure nothing for m; give --evaluate as well"),
        (("sweep", "none.toml", "-o", "out"), "cannot read the sweep none.toml"),
        (("sweep", "a.toml", "b.toml", "-o", "out"), "give one .toml file with all models"),
        (("sweep", "a.toml", "-o", "out", "--recipe", "int8"), "--recipe has no effect beside a.toml"),
    ],
)
def test_refusals(arguments: tuple[str, ...], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.usefixtures("folder")
def test_the_folder_of_the_data_is_refused() -> None:
    result = run("sweep", "m.onnx", "-o", "photos", "--calibration", "photos", "--recipe", "int8")
    assert result.exit_code == 2
    assert "--output photos has the data of the sweep" in result.output


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "arguments",
    [
        (*SWEEP, *FAST, "--no-page"),
        ("sensitivity", "m.onnx", "--data", "calibration.npz", *SCALE),
        ("convert", "m.onnx", "-o", "out.onnx", "--calibration", "calibration.npz", *SCALE),
    ],
)
def test_workers_without_dask_are_refused_in_one_line(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "distributed" else known(name))
    result = run(*arguments, "--workers", "2")
    assert result.exit_code == 2
    assert result.output == "Error: --workers 2 needs dask; install convert-onnx[dask]\n"
