"""A rewritten model must compute what the model of the user computes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from converter.data.inputs import InputSpec, input_specs
from converter.evaluation.same_function import Original
from converter.runtime.few_samples import noise_feeds, noise_like, perturbed
from passes.errors import ModelError
from tests.support.graphs import array, build, node

FEEDS = [{"x": array(1, 3, 8, 8)}]


def network(bias: float = 0.0, opset: int = 17, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    constants = {"w": array(4, 3, 3, 3), "b": np.full((4,), bias, np.float32)}
    if dtype != TensorProto.FLOAT:
        constants = {name: values.astype(np.float16) for name, values in constants.items()}
    return build([node("Conv", ["x", "w", "b"], ["y"])], constants, ["n", 3, 8, 8], opset=opset, dtype=dtype)


def test_an_equal_model_passes() -> None:
    Original(network(), FEEDS, "model").require(network(opset=21), "reading")


def test_rounding_passes() -> None:
    Original(network(), FEEDS, "model").require(network(bias=1e-6), "reading")


def test_another_function_is_refused() -> None:
    with pytest.raises(
        ModelError, match=r"net.onnx: reading changes what the model computes: output 'y' has [0-9.]+ dB"
    ):
        Original(network(), FEEDS, "net.onnx").require(network(bias=0.1), "reading")


def test_float16_may_differ_by_its_own_rounding() -> None:
    halves = [{"x": FEEDS[0]["x"].astype(np.float16)}]
    Original(network(dtype=TensorProto.FLOAT16), halves, "model").require(network(), "reading")
    with pytest.raises(ModelError, match="changes what"):
        Original(network(dtype=TensorProto.FLOAT16), halves, "model").require(network(bias=1.0), "reading")


def test_a_network_that_amplifies_rounding_passes() -> None:
    """The sine of a large number: its last digits decide, in the model as given too."""

    def chaotic(bias: float) -> onnx.ModelProto:
        nodes = [node("Conv", ["x", "w", "b"], ["a"]), node("Mul", ["a", "big"], ["c"]), node("Sin", ["c"], ["y"])]
        constants = {"w": array(4, 3, 3, 3), "b": np.full((4,), bias, np.float32), "big": np.float32(1e6)}
        return build(nodes, {name: np.asarray(values) for name, values in constants.items()}, ["n", 3, 8, 8])

    Original(chaotic(0.0), FEEDS, "model").require(chaotic(1e-6), "reading")


def test_a_model_that_does_not_run_is_refused() -> None:
    nodes = [node("Conv", ["x", "w"], ["a"]), node("Reshape", ["a", "shape"], ["y"])]
    model = build(nodes, {"w": array(4, 3, 3, 3), "shape": np.array([1, 5])}, ["n", 3, "h", 8], output_shape=[1, 5])
    with pytest.raises(ModelError, match=r"net.onnx: fails when it runs"):
        Original(model, FEEDS, "net.onnx")


def test_noise_keeps_integers_valid() -> None:
    feeds = {"ids": np.array([[1, 5, 7]]), "x": np.full((1, 3), 2.0, np.float32)}
    noise = noise_like(feeds)
    assert sorted(noise["ids"].reshape(-1)) == [1, 5, 7]
    assert noise["x"].dtype == np.float32
    assert np.ptp(noise["x"]) > 0


def test_noise_needs_sizes() -> None:
    assert noise_feeds([InputSpec("x", (None, 3, None), np.dtype(np.float32))]) is None
    made = noise_feeds(input_specs(network()))
    assert made is not None
    assert made["x"].shape == (1, 3, 8, 8)


def test_a_perturbation_is_relative() -> None:
    moved = perturbed({"x": np.array([1.0, 1000.0], np.float32), "n": np.array([3])}, 1e-3)
    assert np.all(np.abs(moved["x"] / [1.0, 1000.0] - 1) < 1e-2)
    assert moved["n"] == 3
