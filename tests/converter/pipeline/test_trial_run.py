"""A file runs in two ways before it gets its name."""

import logging
import math
from collections.abc import Callable

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


def disagreeing(monkeypatch: pytest.MonkeyPatch, ways: dict[str, float]) -> list[dict[str, np.ndarray]]:
    """Let each way of running give the right outputs times a factor. Return the inputs to run on."""
    right = [[array(1, 4, 6, 6, seed=seed)] for seed in range(4)]

    def run(*_: object, optimize: bool = True, exact: bool = False) -> list[list[np.ndarray]]:
        factor = ways["exact" if exact else "usual" if optimize else "plain"]
        return [[np.float32(factor) * values for values in outputs] for outputs in right]

    monkeypatch.setattr(module, "_run", run)
    monkeypatch.setattr(Runner, "execute", lambda _self, feeds: right[int(feeds["index"][0])])
    monkeypatch.setattr(Runner, "inputs", lambda _self, feeds: feeds)
    return [{"index": np.array([index])} for index in range(4)]


@pytest.mark.parametrize(("exact", "refused"), [(1.0, False), (0.1, True)])
def test_two_ways_that_disagree(monkeypatch: pytest.MonkeyPatch, exact: float, refused: bool) -> None:
    """Only the optimized way is wrong. It is this processor's fault if the exact kernels are right."""
    feeds = disagreeing(monkeypatch, {"plain": 1.0, "usual": 0.1, "exact": exact})
    if refused:
        with pytest.raises(VerificationError, match=r"output 'y' has .* dB against float, but .* optimizations off"):
            trial_run(network(), network(), feeds, "calibration")
    else:
        trial_run(network(), network(), feeds, "calibration")


def in_a_branch() -> onnx.ModelProto:
    """A file with a quantized tensor inside of an If."""
    zero = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in (("s", np.float32(1)), ("z", 0))]
    branch = onnx.helper.make_graph(
        [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["r"])],
        "branch",
        [],
        [onnx.helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, None)],
        zero,
    )
    chosen = node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    return build([chosen], {"yes": np.array(True)}, ["n", 3, 8, 8], output_shape=None)


def integer_product() -> onnx.ModelProto:
    """A file that multiplies integers without the optimizer."""
    nodes = [node("MatMulInteger", ["x", "w"], ["sums"]), node("Cast", ["sums"], ["y"], to=1)]
    return build(nodes, {"w": np.ones((8, 4), np.int8)}, ["n", 3, 8, 8], output_shape=None)


@pytest.mark.parametrize(
    ("file", "ways", "cost"),
    [
        # the exact kernels of the optimizer are right, and without it the sums saturate
        (integer_product, {"plain": 0.1, "usual": 0.1, "exact": 1.0}, True),
        (integer_product, {"plain": 0.1, "usual": 1.0, "exact": 1.0}, False),
        # exact kernels do not reach the branches
        (in_a_branch, {"plain": 1.0, "usual": 0.1, "exact": 0.1}, True),
    ],
)
@pytest.mark.parametrize("saturate", [True, False])
def test_sums_that_saturate_where_nothing_helps(
    file: Callable[[], onnx.ModelProto],
    ways: dict[str, float],
    cost: bool,
    saturate: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file is not refused for this processor's kernels, and what they cost is said."""
    monkeypatch.setattr(module, "sums_saturate", lambda: saturate)
    feeds = disagreeing(monkeypatch, ways)
    disagree = ways["plain"] != ways["usual"]
    if disagree and not saturate:
        with pytest.raises(VerificationError, match="optimizations off"):
            trial_run(file(), network(), feeds, "calibration")
        return
    found = trial_run(file(), network(), feeds, "calibration")
    assert bool(found.saturation) == (cost and saturate)


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
