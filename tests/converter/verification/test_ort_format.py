"""Files in onnxruntime's own format: they load, give the same outputs, and say which operators a build needs."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import converter
from converter import convert
from converter.verification import ort_format
from passes.errors import ModelError, OutputError, UsageError, VerificationError
from tests.support.command_line import run
from tests.support.models import SIDE, small_cnn


def saved(folder: Path, recipe: str) -> Path:
    path = folder / "model.onnx"
    if recipe == "float":
        onnx.save(small_cnn(), path)
    else:
        data = None if recipe.startswith("int4") else np.random.default_rng(0).random((32, 3, SIDE, SIDE), np.float32)
        convert(small_cnn(), data, recipe=recipe).save(path)
    return path


def first_output(path: Path) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(1).random((1, 3, SIDE, SIDE), np.float32)
    return np.asarray(session.run(None, {"input": image})[0])


@pytest.mark.parametrize(
    ("recipe", "operator"), [("float", "FusedConv"), ("int8", "QLinearConv"), ("int4-weight-only-rtn", "FusedConv")]
)
def test_the_file_gives_what_the_model_gives(recipe: str, operator: str, tmp_path: Path) -> None:
    model = saved(tmp_path, recipe)
    written = converter.write_ort(model, tmp_path / "new" / "folder")
    assert written.path == tmp_path / "new" / "folder" / "model.ort"
    assert written.path.stat().st_size == written.size
    assert np.abs(first_output(written.path) - first_output(model)).max() <= 1e-5
    assert any(line.startswith("com.microsoft;1;") and operator in line for line in written.operators)
    lines = written.config.read_text().splitlines()
    assert lines == ["# model.ort", *written.operators]


def test_the_command_writes_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, "float")
    monkeypatch.chdir(tmp_path)
    shown = run("ort", "model.onnx", "--platform", "arm")
    assert shown.exit_code == 0
    assert shown.output.splitlines()[0].startswith("model.ort: ")
    assert "Converting" not in shown.output
    facts = json.loads(run("ort", "model.onnx", "--json").stdout)
    assert facts["config"] == "model.required_operators.config"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.onnx", "model.ort", facts["config"]]


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved(tmp_path, "float")
    with pytest.raises(UsageError, match="`platform='mips'` is none of arm, amd64"):
        converter.write_ort(model, platform="mips")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"missing\.onnx"):
        converter.write_ort(tmp_path / "missing.onnx")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file/inside: "):
        converter.write_ort(model, tmp_path / "file" / "inside")
    monkeypatch.setattr(ort_format, "libraries", lambda: ["ops.so"])
    with pytest.raises(UsageError, match="a minimal build has no custom operators"):
        converter.write_ort(model)


def test_other_outputs_are_an_error_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved(tmp_path, "float")
    monkeypatch.setattr(ort_format, "_apart", lambda *_: float("nan"))
    with pytest.raises(VerificationError, match=r"the outputs of its \.ort file differ by nan"):
        converter.write_ort(model)
    assert not (tmp_path / "model.ort").exists()


def test_values_that_are_not_finite_count_as_equal_where_both_have_them() -> None:
    one = np.array([1.0, np.nan, np.inf, -2.0])
    assert ort_format._apart(one, one.copy()) == 0
    assert ort_format._apart(one, np.array([1.0, np.nan, np.inf, -1.0])) == 0.5
    assert np.isnan(ort_format._apart(one, np.array([np.nan, np.nan, np.inf, -2.0])))
    assert ort_format._apart(one, one[:3]) == np.inf
