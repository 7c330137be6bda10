"""The comparison of learned rounding: its rows, what it keeps, its table, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx
import pytest

pytest.importorskip("torch")

from benchmarks import learned_rounding
from benchmarks.learned_rounding import METHODS, PRACTICES, Case, Method, Row
from benchmarks.networks_with_images import NETWORKS, Network
from benchmarks.shared_data import MissingData
from converter.runtime.session import no_progress
from passes.weights.gptq import Gptq
from passes.weights.learned_rounding import LearnedRounding
from tests.support.judged_network import JudgedNetwork

CHANNELS = "a scale a channel"
SHORT = MappingProxyType({"GPTQ": Method(Gptq()), "GPTQ, moves": Method(Gptq(), LearnedRounding(steps=2, batch=8))})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = JudgedNetwork()
    network = Network(judged.model, lambda model: judged.images(model, 32), 16, 40)
    monkeypatch.setattr(learned_rounding, "NETWORKS", {"small": network})
    monkeypatch.setattr(learned_rounding, "METHODS", SHORT)


@pytest.mark.usefixtures("small")
def test_rows_are_kept_and_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [("small", 3, CHANNELS, name) for name in SHORT]
    path = tmp_path / "rows.jsonl"
    first = learned_rounding.measured(cases[:1], SHORT, 2, 12, path, no_progress)
    assert [(row.case.method, row.case.index, row.case.calibrate, row.images) for row in first] == [
        ("GPTQ", 0, 12, 40),
        ("GPTQ", 1, 12, 40),
    ]
    assert first[0].sqnr_db != first[1].sqnr_db  # every set has a file of its own
    done: list[Case] = []
    measure = learned_rounding._measure

    def noted(case: Case, *rest: Any) -> Row:
        done.append(case)
        return measure(case, *rest)

    monkeypatch.setattr(learned_rounding, "_measure", noted)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"case": {"netw')  # cut by a kill
    again = learned_rounding.measured(cases, SHORT, 2, 12, path, no_progress)
    assert [(case.method, case.index) for case in done] == [("GPTQ, moves", 0), ("GPTQ, moves", 1)]
    assert again[:2] == first
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.usefixtures("small")
def test_the_gain_is_that_over_the_start_set_by_set(tmp_path: Path) -> None:
    cases = [("small", 3, CHANNELS, name) for name in SHORT]
    rows = learned_rounding.measured(cases, SHORT, 1, 8, tmp_path / "rows.jsonl", no_progress)
    rows = [replace(rows[0], sqnr_db=10.0), replace(rows[1], sqnr_db=10.5)]
    rows += [
        replace(row, case=replace(row.case, index=1), sqnr_db=decibels)
        for row, decibels in zip(rows, (12.0, 13.5), strict=True)
    ]
    gains = list(learned_rounding.table(rows).columns[5].cells)
    assert gains == ["", "+1.00 ± 0.71 dB"]


@pytest.mark.usefixtures("small")
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["ladder", "--bits", "4", "--grids", CHANNELS, "--methods", "GPTQ", "--sets", "1"]
    assert learned_rounding.main([*arguments, "--rows", str(tmp_path / "rows.jsonl")]) == 0
    assert "GPTQ" in capsys.readouterr().out
    (row,) = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert row["case"]["bits"] == 4


@pytest.mark.usefixtures("small")
def test_stored_bits_are_rows_of_their_own(tmp_path: Path) -> None:
    arguments = ["ladder", "--bits", "3", "--grids", CHANNELS, "--methods", "GPTQ", "--sets", "1"]
    arguments += ["--rows", str(tmp_path / "rows.jsonl")]
    assert learned_rounding.main(arguments) == learned_rounding.main([*arguments, "--stored-bits"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["case"]["grid"] for row in rows] == [CHANNELS, f"{CHANNELS}, stored bits"]
    assert rows[0]["sqnr_db"] + 1 < rows[1]["sqnr_db"]
    recipe = SHORT["GPTQ"].recipe("GPTQ", 3, learned_rounding.GRIDS["two levels, stored bits"])
    assert recipe.storage == "packed"
    assert recipe.solver == Gptq(bits=3, block_size=8, two_level=True, stored_bits=True)


def test_every_choice_is_a_recipe() -> None:
    for name, method in {**METHODS, **PRACTICES}.items():
        recipe = method.recipe(name, 2, learned_rounding.GRIDS["two levels"])
        assert recipe.name == name
        assert any(getattr(step, "bits", None) == 2 for step in recipe.passes)
        assert method.refined is None or recipe.passes[-1] == method.refined


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ladder", "--methods", "none"], "no method is named 'none'; there are: RTN; RTN, soft"),
        (["ladder", "--bits", "9"], "invalid choice: 9"),
        (["practices", "--sets", "0"], "--sets and --calibrate must be at least 1"),
        (["other"], "invalid choice: 'other'"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        learned_rounding.main(arguments)
    assert message in capsys.readouterr().err


def test_missing_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def missing() -> onnx.ModelProto:
        raise MissingData("no weights in /nowhere; set CONVERT_ONNX_DATA to the folder that holds it")

    network = replace(NETWORKS["ResNet-20"], model=missing)
    monkeypatch.setattr(learned_rounding, "NETWORKS", {"ResNet-20": network})
    assert learned_rounding.main(["practices", "--rows", str(tmp_path / "rows.jsonl")]) == 1
    assert capsys.readouterr().err.startswith("Error: no weights in /nowhere")


@pytest.mark.usefixtures("small")
def test_rows_of_another_recipe_are_measured_again(tmp_path: Path) -> None:
    cases, path = [("small", 4, CHANNELS, "GPTQ")], tmp_path / "rows.jsonl"
    for beam in (1, 1, 2):
        learned_rounding.measured(cases, {"GPTQ": Method(Gptq(beam=beam))}, 1, 8, path, no_progress)
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.usefixtures("small")
def test_more_images_than_there_are_is_an_error(tmp_path: Path) -> None:
    cases = [("small", 4, CHANNELS, "GPTQ")]
    with pytest.raises(MissingData, match="small has 32 images to draw from; give --calibrate below that"):
        learned_rounding.measured(cases, SHORT, 1, 33, tmp_path / "rows.jsonl", no_progress)
