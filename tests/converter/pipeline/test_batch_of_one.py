"""Models that declare any batch and are right for one sample only."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import converter
from tests.support.graphs import array, build, node

X = array(40, 3, 8, 8)


def model(shape: list[int]) -> onnx.ModelProto:
    """A Reshape between convolutions. [1, 4, 8, 8] fails for two samples, [1, -1, 8, 8] mixes their channels."""
    nodes = [
        node("Conv", ["x", "w0"], ["a"], name="first", pads=[1] * 4),
        node("Reshape", ["a", "shape"], ["b"]),
        node("ReduceMean", ["b"], ["c"], axes=[1], keepdims=1),
        node("Conv", ["c", "w1"], ["y"], name="last", pads=[1] * 4),
    ]
    constants = {"w0": array(4, 3, 3, 3), "w1": array(5, 1, 3, 3), "shape": np.array(shape)}
    return build(nodes, constants, ["n", 3, 8, 8], output_shape=["n", 5, 8, 8])


@pytest.mark.parametrize("shape", [[1, 4, 8, 8], [1, -1, 8, 8]], ids=["fails", "mixes"])
@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_a_model_that_is_right_for_one_sample(
    shape: list[int], recipe: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    onnx.save(model(shape), tmp_path / "m.onnx")
    result = converter.convert(tmp_path / "m.onnx", X, recipe=recipe)
    assert "so it runs one at a time" in caplog.text
    assert result.fidelity is not None
    assert (result.fidelity.sqnr_db or 0) > (30 if recipe == "int8" else 15)


def test_evaluation_falls_back_to_one_sample(tmp_path: Path) -> None:
    onnx.save(model([1, 4, 8, 8]), tmp_path / "m.onnx")
    result = converter.convert(tmp_path / "m.onnx", X, evaluation=X)
    assert result.metrics is not None
    assert (result.metrics.models[1].sqnr_db or 0) > 30
    assert converter.evaluate([tmp_path / "m.onnx"], X, latency=False).models[0].images == 40


def test_an_ordinary_model_runs_in_batches(caplog: pytest.LogCaptureFixture) -> None:
    converter.convert(model([0, 4, 8, 8]), X)
    assert "one at a time" not in caplog.text
