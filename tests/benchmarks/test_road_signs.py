"""Bookkeeping of the study: each row has the named recipe, each ablation removes one part, each plot is drawn."""

import dataclasses
import io
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from benchmarks import road_sign_figures
from benchmarks.road_sign_figures import Study, grid_figure, weight_figure
from benchmarks.road_signs import AWQ_GRID, METHODS, PARTS, Row, ablation_table, main, method_table, shortcuts, without
from benchmarks.shortcuts import SHORTCUTS, rounded
from converter.data.dataset import load_data
from converter.data.inputs import input_specs
from converter.recipes.toml import dump_recipe, parse_recipe
from converter.report.table import show
from passes.activations.activation_ranges import ActivationRanges
from passes.base import LayerPass, Pass
from passes.ir.linear import Linear
from passes.numerics.error import sqnr_db
from passes.report import LossGrid
from passes.scale_migration.awq import Awq
from passes.scale_migration.smoothquant import SmoothQuant
from passes.weights.gptq import Gptq
from tests.support.networks import images, quiet, resnet, run


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_the_passes_of_its_name(name: str) -> None:
    bits, recipe = METHODS[name]
    assert f"W{bits}A8" in name
    kinds = [type(step) for step in recipe.passes]
    assert (Gptq in kinds) is ("GPTQ" in name or "learned" in name)
    assert (Awq in kinds) is ("AWQ" in name)
    assert (SmoothQuant in kinds) is ("SmoothQuant" in name)
    assert (AWQ_GRID in recipe.passes) is ("salient" in name)
    assert [step.bits for step in recipe.passes if isinstance(step, LayerPass)] == [bits]
    if Awq in kinds or SmoothQuant in kinds:
        assert kinds.index(Awq if Awq in kinds else SmoothQuant) < kinds.index(ActivationRanges)
    assert parse_recipe(dump_recipe(recipe), "f.toml") == recipe


def test_recipes_have_different_names_and_passes() -> None:
    assert len({recipe.name for _, recipe in METHODS.values()}) == len(METHODS)
    assert len({repr(recipe.passes) for _, recipe in METHODS.values()}) == len(METHODS)


@pytest.mark.parametrize("part", [*PARTS, "activation ranges", "everything"])
def test_an_ablation_changes_the_named_part_only(part: str) -> None:
    whole, less = without("nothing", 3).passes, without(part, 3).passes
    differing = {type(one): changed(one, other) for one, other in zip(whole, less, strict=True) if one != other}
    ranges: dict[type, dict[str, Any]] = {ActivationRanges: {"method": "minmax"}}
    every = {name: value for fields in PARTS.values() for name, value in fields.items()}
    expected = {"activation ranges": ranges, "everything": ranges | {Gptq: every}}
    assert differing == (expected[part] if part in expected else {Gptq: dict(PARTS[part])})


def changed(one: Pass, other: Pass) -> dict[str, Any]:
    """Return the fields that differ from those of the other pass."""
    names = [field.name for field in dataclasses.fields(one) if getattr(one, field.name) != getattr(other, field.name)]
    return {name: getattr(other, name) for name in names}


def rows() -> list[Row]:
    made = [Row("float", 32, 98.0, 0.2, 6315, None, 40_000_000, 1.0, 0.0)]
    for bits, size in ((4, 5_000_000), (2, 2_500_000)):
        made += [Row(part, bits, 90.0 + bits, 0.3, 6315, 5.0 * bits, size, 3.0, 60.0) for part in ("nothing", "order")]
    return made


def test_tables() -> None:
    file = io.StringIO()
    show([method_table(rows()), ablation_table(rows())], file)
    lines = [line.split() for line in file.getvalue().splitlines() if line.strip()]
    assert ["float", "98.00", "%", "40.00", "MB"] in lines
    assert ["order", "94.00", "%", "20.0", "dB", "5.00", "MB", "8.0x", "smaller", "3.00x", "faster", "60", "s"] in lines
    assert ["order", "94.00", "%", "20.0", "dB", "92.00", "%", "10.0", "dB"] in lines


def test_shortcuts_are_measured_under_their_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, x = resnet(), images(64, 3, 12, 12)
    reference = run(model, x)[0]
    data = load_data((x, reference.argmax(axis=1)), input_specs(model))
    monkeypatch.setattr("benchmarks.road_signs.ROAD_SIGNS", Mock(model=lambda: model, images=lambda *_: (data, data)))
    rows = shortcuts(model, data, [4, 2])
    assert (rows[0].method, rows[0].top1) == ("float", 100.0)
    assert [(row.bits, row.method) for row in rows[1:]] == [(bits, what) for bits in (4, 2) for what, _, _ in SHORTCUTS]
    for row, (_, scales, folded) in zip(rows[1:], 2 * SHORTCUTS, strict=True):
        scores = run(rounded(model, row.bits, scales, folded=folded), x)[0]
        assert row.sqnr_db == pytest.approx(sqnr_db(reference, scores), abs=0.01)
    assert main(["shortcuts", "--bits", "2"]) == 0
    printed = capsys.readouterr().out
    assert "W2" in printed
    assert "W4" not in printed
    for row in rows[5:]:
        assert any(row.method in line and f"{row.top1:.2f} %" in line for line in printed.splitlines())


def test_unknown_part_of_the_study(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["tabel"])
    assert "no part is named 'tabel'; there are: table, ablation, shortcuts" in capsys.readouterr().err


def test_missing_data_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("CONVERT_ONNX_DATA", str(tmp_path))
    assert main(["table"]) == 1
    assert "Error: no resnet18_gtsrb.npz in" in capsys.readouterr().err


def test_figures_without_matplotlib(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(road_sign_figures, "find_spec", Mock(return_value=None))
    assert road_sign_figures.main([]) == 1
    assert "Error: matplotlib is not installed; install convert-onnx[figures]" in capsys.readouterr().err


def test_the_layer_that_gained_most_is_drawn() -> None:
    proto = resnet()
    data = load_data(images(32, 3, 12, 12), input_specs(proto))
    study = road_sign_figures.study(proto, data, quiet)
    assert study.before.shape == study.after.shape == study.layer.matrix_shape
    assert not np.array_equal(study.before, study.after)
    gains = {name: grid.plain / grid.losses.min() for name, grid in study.grids.items()}
    assert gains[study.layer.name] == max(gains.values())


def test_figures_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    axes = {"alpha": (0.0, 0.5, 1.0), "factor": (1.0, 2.0)}
    losses = np.array([[1.0, 0.9], [0.5, 0.8], [2.0, 3.0]])
    layer = Linear("conv", "Conv", "x", "y", "w", (8, 6, 3, 3), None)
    weight = rng.standard_normal((1, 8, 54)).astype(np.float32)
    study = Study({"conv": LossGrid(axes, losses, 1.0)}, layer, weight, weight * 2)
    for name, figure in (("weights", weight_figure(study)), ("grid", grid_figure(study))):
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5_000
    title = grid_figure(study).axes[0].get_title()
    assert title == "conv\n+3.01 dB at α 0.5, factor 1"
