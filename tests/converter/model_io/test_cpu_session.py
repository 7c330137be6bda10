"""Files with int8 activations that onnxruntime's optimizer breaks: they load, compute correctly and can be saved."""

import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from converter import Result, convert
from converter.data.dataset import load_data
from converter.data.inputs import input_specs
from converter.evaluation.evaluate import evaluate
from converter.model_io.cpu_session import cpu_session
from converter.runtime.session import open_session
from converter.verification.verify import verify
from models.zoo import ZOO, feeds_of
from passes.errors import VerificationError
from tests.support.graphs import run as unoptimized


@pytest.fixture(scope="module")
def result() -> Result:
    """A detector's head for TensorRT: its Reshape writes the output."""
    model = ZOO["detector head"]()
    return convert(model, feeds_of(model, 8), target="tensorrt")


def test_a_file_with_int8_activations_computes_its_graph(result: Result) -> None:
    """Other kernels round one code in a thousand differently, by one step of the widest grid."""
    feeds = feeds_of(ZOO["detector head"](), 1, seed=2)
    expected, actual = unoptimized(result.model, feeds)[0], open_session(result.model, threads=1).run(None, feeds)[0]
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in result.model.graph.initializer}
    step = max(float(values) for name, values in constants.items() if name.endswith("_scale") and values.ndim == 0)
    assert np.abs(actual - expected).max() <= 1.01 * step
    assert (actual != expected).mean() < 0.01


def test_a_file_with_int8_activations_is_saved_verified_and_evaluated(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "head.onnx")
    onnx.save(ZOO["detector head"](), tmp_path / "float.onnx")
    assert verify(tmp_path / "head.onnx", "tensorrt", reference=tmp_path / "float.onnx").passed
    rows = load_data(feeds_of(ZOO["detector head"](), 4, seed=2), input_specs(result.model))
    measured = evaluate([tmp_path / "float.onnx", tmp_path / "head.onnx"], rows, latency=False).models
    assert measured[1].sqnr_db is not None
    assert measured[1].sqnr_db > 25


class Session:
    """A session of onnxruntime whose rewriting fails."""

    opened: ClassVar[list[str]] = []

    def __init__(self, model: str, options: ort.SessionOptions, **_: object) -> None:
        try:
            allowed = options.get_session_config_entry("session.qdqisint8allowed")
        except RuntimeError:
            allowed = "0"
        self.opened.append(allowed)
        if model == "broken":
            raise ValueError("no such operator")
        if allowed == "0" or model == "never":
            raise ValueError(f"INT8 does not match UINT8, {allowed}")


def test_int8_is_kept_only_where_it_must_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("head", "never", "broken"):
        (tmp_path / name).touch()
    monkeypatch.setattr(ort, "InferenceSession", Session)
    monkeypatch.setattr(Session, "opened", [])
    cpu_session(Path("head"), ort.SessionOptions())
    assert Session.opened == ["0", "1"]
    with pytest.raises(ValueError, match="UINT8, 0"):
        cpu_session(Path("head"), ort.SessionOptions(), keep_int8=False)
    with pytest.raises(ValueError, match="UINT8, 0"):  # the first exception, not that of the second try
        cpu_session(Path("never"), ort.SessionOptions())
    Session.opened.clear()
    with pytest.raises(ValueError, match="no such operator"):
        cpu_session(Path("broken"), ort.SessionOptions())
    assert Session.opened == ["0"]  # what is wrong for another reason is not tried again


def test_a_file_that_a_user_s_session_cannot_load_is_not_written(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's own session could not load this file."""
    monkeypatch.setattr(ort, "InferenceSession", Session)
    with pytest.raises(VerificationError, match="onnxruntime cannot load it: INT8 does not match UINT8, 0"):
        dataclasses.replace(result, target="cpu").save(tmp_path / "head.onnx")
    assert not (tmp_path / "head.onnx").exists()
