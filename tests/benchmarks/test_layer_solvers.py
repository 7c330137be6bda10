"""The comparison of solvers: its rows, its table, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import layer_solvers
from benchmarks.shared_data import MissingData
from converter.runtime.session import no_progress
from passes.numerics.asymmetric_target import asymmetric_target
from tests.support.arrays import moments_of, normal, rows
from tests.support.judged_network import JudgedNetwork


class Missing(JudgedNetwork):
    """A network whose data are not there."""

    def model(self) -> onnx.ModelProto:
        raise MissingData("no weights in /nowhere; set CONVERT_ONNX_DATA to the folder that holds it")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_solvers, "NETWORK", JudgedNetwork())


@pytest.mark.usefixtures("small")
def test_rows_of_solvers() -> None:
    names = ["rounding to nearest", "qronos"]
    found = layer_solvers.measured(names, [3], 16, 40, no_progress)
    assert [(row.solver, row.bits, row.images) for row in found] == [
        ("float", 32, 40),
        ("rounding to nearest", 3, 40),
        ("qronos", 3, 40),
    ]
    reference, nearest, own = found
    assert (reference.top1, reference.sqnr_db) == ((100.0,), ())
    assert len(own.sqnr_db) == len(own.top1) == layer_solvers.SETS
    assert len(set(own.sqnr_db)) == layer_solvers.SETS  # every set has a file of its own
    assert np.mean(own.sqnr_db) > np.mean(nearest.sqnr_db) + 2
    text = str([list(column.cells) for column in layer_solvers.table(found, 16).columns])
    assert f"{np.mean(own.sqnr_db):.2f} ± {np.std(own.sqnr_db, ddof=1):.2f} dB" in text


def test_one_damping_is_gptq_on_the_target_of_the_same_damping() -> None:
    x, y = rows(1, 200, 12), rows(1, 200, 12, seed=1)
    weight, moments = normal(1, 4, 12), moments_of(x + np.float32(0.1) * y, x)
    expected = asymmetric_target(weight, moments, 0.3)
    np.testing.assert_array_equal(layer_solvers.OneDamping(damping=0.3).target_of(weight, moments)[0], expected)


@pytest.mark.usefixtures("small")
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--solvers", "rounding", "--bits", "4", "--calibrate", "8", "--images", "20"]
    assert layer_solvers.main([*arguments, "--json", str(tmp_path / "rows.json")]) == 0
    assert "rounding to nearest" in capsys.readouterr().out
    found = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["solver"], row["images"]) for row in found] == [("float", 20), ("rounding to nearest", 20)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--solvers", "none"], "no solver begins with 'none'; there are: rounding to nearest, gpfq"),
        (["--bits", "9"], "invalid choice: 9"),
        (["--images", "0"], "--calibrate and --images must be at least 1"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        layer_solvers.main(arguments)
    assert message in capsys.readouterr().err


def test_missing_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(layer_solvers, "NETWORK", Missing())
    assert layer_solvers.main(["--bits", "4"]) == 1
    assert capsys.readouterr().err.startswith("Error: no weights in /nowhere")
