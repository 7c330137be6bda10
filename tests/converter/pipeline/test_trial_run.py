"""A file runs in two ways before it gets its name."""

import logging
import math

import numpy as np
import onnx
import pytest

import converter
from converter.pipeline import trial_run as module
from converter.pipeline.trial_run import Fidelity, trial_run
from converter.runtime.runner import Runner
from passes.errors import ModelError, VerificationError
from tests.support.graphs import array, build, node

FEEDS = [{"x": array(1, 3, 8, 8, seed=seed)} for seed in range(4)]
DATA = array(32, 3, 8, 8)


def network(*more: onnx.NodeProto, **constants: np.ndarray) -> onnx.ModelProto:
    nodes = [node("Conv", ["x", "w"], ["a" if more else "y"], name="conv"), *more]
    return build(nodes, {"w": array(4, 3, 3, 3), **constants}, ["n", 3, 8, 8], output_shape=None)


def test_a_conversion_says_how_far_it_is_from_float() -> None:
    result = converter.convert(network(), DATA)
    assert result.fidelity is not None
    assert result.fidelity.samples == 8
    assert result.fidelity.judges == "calibration"
    assert result.fidelity.sqnr_db is not None
    assert result.fidelity.sqnr_db > 30
    assert set(result.fidelity.outputs) == {"y"}


def test_a_file_that_fails_is_refused() -> None:
    broken = build(
        [node("Conv", ["x", "w"], ["a"]), node("Reshape", ["a", "shape"], ["y"])],
        {"w": array(4, 3, 3, 3), "shape": np.array([1, 5])},
        ["n", 3, "h", 8],
        output_shape=[1, 5],
    )
    with pytest.raises(VerificationError, match="nothing written: the quantized file: fails when it runs"):
        trial_run(broken, network(), FEEDS, "calibration")


def test_a_float_model_that_fails_is_refused_before_the_work() -> None:
    broken = network(node("Gather", ["a", "at"], ["y"], axis=1), at=np.array([7]))
    with pytest.raises(ModelError, match=r"the model: fails when it runs: .*out of data bounds"):
        converter.convert(broken, DATA)


@pytest.mark.parametrize(("exact", "refused"), [(1.0, False), (0.1, True)])
def test_two_ways_that_disagree(monkeypatch: pytest.MonkeyPatch, exact: float, refused: bool) -> None:
    """Only the optimized way is wrong. It is this processor's fault if the exact kernels are right."""
    right = [[array(1, 4, 6, 6, seed=seed)] for seed in range(4)]
    ways = {"plain": 1.0, "usual": 0.1, "exact": exact}

    def run(*_: object, optimize: bool = True, exact: bool = False) -> list[list[np.ndarray]]:
        factor = ways["exact" if exact else "usual" if optimize else "plain"]
        return [[np.float32(factor) * values for values in outputs] for outputs in right]

    monkeypatch.setattr(module, "_run", run)
    monkeypatch.setattr(Runner, "execute", lambda _self, feeds: right[int(feeds["index"][0])])
    monkeypatch.setattr(Runner, "inputs", lambda _self, feeds: feeds)
    feeds = [{"index": np.array([index])} for index in range(4)]
    if refused:
        with pytest.raises(VerificationError, match=r"output 'y' has .* dB against float, but .* optimizations off"):
            trial_run(network(), network(), feeds, "calibration")
    else:
        trial_run(network(), network(), feeds, "calibration")


def test_a_file_far_from_float_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert Fidelity(8, "held out", {"y": 30.0}).warning == ""
    assert Fidelity(8, "held out", {}).warning == ""
    assert Fidelity(8, "held out", {"y": 20.0}).saturation == ""
    assert Fidelity(8, "held out", {"y": 36.0}, exact_db=48.0).saturation == ""
    assert "20.0 dB here, and 36.0 dB with kernels" in Fidelity(8, "held out", {"y": 20.0}, exact_db=36.0).saturation
    assert Fidelity(8, "held out", {}).sqnr_db is None
    assert "the output has only 4.0 dB against float" in Fidelity(8, "held out", {"y": 4.0}).warning
    assert "output 'boxes' has another shape or NaN" in Fidelity(8, "held out", {"y": 40.0, "boxes": -math.inf}).warning
    with caplog.at_level(logging.WARNING):
        converter.convert(network(), DATA, bits={"conv": 2})
    assert "dB against float on samples that calibrated" in caplog.text
