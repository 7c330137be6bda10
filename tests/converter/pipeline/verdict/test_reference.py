"""What a verdict compares with: the file that was given, by name, and the floats that a quantized file stands for."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import converter
from converter.model_io.structure import model_bytes
from converter.pipeline.given import given_model
from converter.pipeline.prepare import Prepared
from converter.runtime.latency import Latencies
from tests.support.command_line import run
from tests.support.models import images, small_cnn

X = images(32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(small_cnn(), "model.onnx")
    np.savez("x.npz", x=X)
    converter.convert("model.onnx", X, recipe="int4", settings=converter.Settings(timing=False)).save("q4.onnx")
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("evaluation", [None, X], ids=["samples", "evaluation"])
def test_size_and_speed_are_compared_with_a_quantized_file_that_was_given(
    evaluation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[Any] = []

    def time_pair(given: Any, *_: Any) -> Latencies:
        timed.append(given)
        return Latencies((2.0, 1.0), ((1.0, 1.0), (1.95, 2.05)))

    monkeypatch.setattr("converter.pipeline.prepare.time_pair", time_pair)
    settings = converter.Settings(timing=evaluation is None)
    result = converter.convert("q4.onnx", recipe="keep", evaluation=evaluation, settings=settings)
    verdict = result.verdict()
    assert timed == [Path("q4.onnx")]
    assert result.latencies == Latencies((2.0, 1.0), ((1.0, 1.0), (1.95, 2.05)))
    assert verdict.faster.why.startswith("2.00x faster (1.95 to 2.05) than q4.onnx, 2.00 ms to 1.00 ms")
    assert result.given is not None
    assert result.given.bytes == model_bytes(Path("q4.onnx"))
    assert "q4.onnx" in verdict.smaller.why
    assert verdict == result.verdict(model_bytes(Path("q4.onnx")))
    if evaluation is None:
        assert "the floats that q4.onnx stands for" in verdict.accurate.why
    else:
        assert result.metrics is not None
        assert result.metrics.models[0].latency_ms is None
        assert "2.00x faster" in str(result.overview())


@pytest.mark.usefixtures("folder")
def test_the_terminal_names_the_reference() -> None:
    done = run(
        "convert", "q4.onnx", "-o", "kept.onnx", "--recipe", "keep", "--target", "generic", "--evaluate", "x.npz"
    )
    assert done.exit_code == 0, done.output
    words = " ".join(done.output.split())
    assert "than q4.onnx," in words
    assert "q4.onnx has" in words or "larger than q4.onnx" in words or "smaller than q4.onnx" in words
    done = run("convert", "model.onnx", "-o", "int8.onnx", "--calibration", "x.npz")
    assert "than model.onnx, " in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("model", "title"),
    [
        ("a/b/net.onnx", "net.onnx"),
        ("a/net.py:build(path='c/d')", "net.py:build(path='c/d')"),
        (small_cnn(), "the model as given"),
    ],
)
def test_the_title_has_no_folders(model: Any, title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.pipeline.given.original", lambda _, opened: opened)
    assert given_model(model, small_cnn(), quantized=False).title == title


@pytest.mark.usefixtures("folder")
def test_a_quantized_file_that_does_not_run_here_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load("q4.onnx")
    model.graph.node[-1].domain = "com.elsewhere"
    model.opset_import.append(onnx.helper.make_opsetid("com.elsewhere", 1))
    plain = Prepared.latency

    def elsewhere(job: Prepared, quantized: onnx.ModelProto) -> Latencies | None:
        object.__setattr__(job.given, "model", model)
        return plain(job, quantized)

    monkeypatch.setattr(Prepared, "latency", elsewhere)
    result = converter.convert("q4.onnx", recipe="keep", evaluation=X)
    assert result.latencies is None
    assert result.verdict().faster.word == "not known"
