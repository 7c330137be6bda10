"""Networks at the edges of float32: dead inputs, dead weights, biases that dwarf everything else."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from converter import Recipe, convert
from converter.qdq.writer import emit
from passes.activations.activation_ranges import ActivationRanges
from passes.base import LayerPass, Problem, Solution
from passes.graph.normalise.normalise import Normalise
from passes.weights.gptq import Gptq
from passes.weights.rtn import Rtn
from tests.support.networks import images, initializers, network, quantize, random, run

X = images(20, 3, 8, 8)


def two_convs(first: NDArray[Any], bias: NDArray[Any], second: NDArray[Any]) -> onnx.ModelProto:
    """Conv, Relu, Conv, Relu, with a bias in the first alone."""
    nodes = [
        helper.make_node("Conv", ["x", "first.weight", "first.bias"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "second.weight"], ["c"], "second"),
        helper.make_node("Relu", ["c"], ["y"], "last"),
    ]
    constants = {"first.weight": first, "first.bias": bias, "second.weight": second}
    return network(nodes, constants, {"x": ["N", 3, 8, 8]}, {"y": ["N", 4, 4, 4]})


FIRST, BIAS, SECOND = random(6, 3, 3, 3) * np.float32(0.2), random(6), random(4, 6, 3, 3) * np.float32(0.2)
SOME = FIRST * (np.arange(6) % 2)[:, None, None, None].astype(np.float32)
CASES = {
    "dead_relu": (two_convs(FIRST, np.full(6, -1e3, np.float32), SECOND), X),
    "zero_images": (two_convs(FIRST, BIAS, SECOND), np.zeros_like(X)),
    "zero_images_no_bias": (two_convs(FIRST, 0 * BIAS, SECOND), np.zeros_like(X)),
    "zero_weight": (two_convs(0 * FIRST, BIAS, SECOND), X),
    "zero_weight_and_bias": (two_convs(0 * FIRST, 0 * BIAS, 0 * SECOND), X),
    "some_channels": (two_convs(SOME, BIAS, SECOND), X),
    "some_inputs": (two_convs(FIRST, BIAS, SECOND * (np.arange(6) % 2)[None, :, None, None].astype(np.float32)), X),
}


@pytest.mark.parametrize("integer", [True, False], ids=["integer", "weight_only"])
@pytest.mark.parametrize("step", [Gptq, Rtn])
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_what_is_dead_stays_dead(name: str, bits: int, step: Any, integer: bool, tmp_path: Path) -> None:
    """Warnings are errors here; outputs that are constant are what they were, to half a step of 8 bits."""
    proto, x = CASES[name]
    ranges = (ActivationRanges(),) if integer else ()
    result = convert(proto, x, recipe=Recipe("mine", "", (Normalise(), *ranges, step(bits=bits))))
    result.save(tmp_path / "m.onnx")
    found, expected = run(onnx.load(tmp_path / "m.onnx"), x)[0], run(proto, x)[0]
    assert np.isfinite(found).all()
    if name in {"dead_relu", "zero_weight_and_bias", "zero_images_no_bias"}:
        np.testing.assert_array_equal(found, expected)
    else:
        assert np.abs(found - expected).max() <= (1.0 if bits == 2 else 0.5) * np.abs(expected).max()


@settings(max_examples=40)
@given(
    bits=st.sampled_from([2, 4, 8]),
    weight=st.integers(-12, 3),
    size=st.integers(-10, 6),
    mean=st.sampled_from([0.0, 1.0, 1e3]),
    bias=st.sampled_from([None, 0.0, 1.0, 1e8]),
    step=st.sampled_from([Gptq, Rtn]),
)
def test_the_final_bias_fits_its_integers(
    bits: int, weight: int, size: int, mean: float, bias: float | None, step: Any
) -> None:
    """Whatever the correction adds to it: at most half the range of 32 bits, and exact to half a step."""
    w = random(6, 5) * np.float32(10.0**weight)
    w[:, 1] *= np.float32(1e-4)
    constants = {"w": w} | ({} if bias is None else {"b": random(5, seed=3) * np.float32(bias)})
    node = helper.make_node("Gemm", ["x", *constants], ["a"], "layer")
    proto = network([node, helper.make_node("Relu", ["a"], ["y"], "relu")], constants, {"x": ["N", 6]}, {"y": ["N", 5]})
    x = (random(40, 6, seed=4) + np.float32(mean)) * np.float32(10.0**size)
    model = quantize(proto, step(bits=bits), {"x": x}, ranges=True)
    written = initializers(emit(model))
    layer = model.layers()["layer"]
    if layer.bias is None:
        return
    codes, scale = (onnx.numpy_helper.to_array(written[f"{layer.bias}_{end}"]) for end in ("int32", "scale"))
    exact = model.bias(layer)
    assert exact is not None
    assert (scale > 0).all()
    assert np.abs(codes.astype(np.int64)).max() <= 2**30
    assert (np.abs(codes * scale.astype(np.float64) - exact.reshape(-1)) <= 0.501 * scale).all()


@dataclass(frozen=True)
class Corrected(LayerPass):
    """Rounds to the nearest and adds to the bias what has nothing to do with the weights."""

    name: ClassVar[str] = "corrected"
    wants_moments: ClassVar[bool] = False
    by: float = 0.0

    def solve(self, problem: Problem) -> Solution:
        solution = Rtn(bits=self.bits).solve(problem)
        old = np.zeros(problem.weight.shape[:2], np.float32) if problem.bias is None else problem.bias
        return replace(solution, bias=old + np.float32(self.by) * (1 + solution.grid.scale[:, :, 0]))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("by", "raised"), [(0.0, False), (30.0, True)])
def test_a_correction_that_dwarfs_the_weights_raises_the_scale(bias: bool, by: float, raised: bool) -> None:
    constants = {"w": random(6, 5) * np.float32(1e-9)} | ({"b": random(5) * np.float32(1e-9)} if bias else {})
    nodes = [helper.make_node("Gemm", ["x", *constants], ["a"], "fc"), helper.make_node("Relu", ["a"], ["y"], "relu")]
    proto = network(nodes, constants, {"x": ["N", 6]}, {"y": ["N", 5]})
    steps = (Normalise(), ActivationRanges(), Corrected(by=by))
    (layer,) = (result := convert(proto, random(30, 6), recipe=Recipe("mine", "", steps))).layers
    assert ("scale raised for the corrected bias" in layer.note) == raised
    (codes,) = [onnx.numpy_helper.to_array(t) for t in result.model.graph.initializer if t.name.endswith("_int32")]
    assert np.abs(codes.astype(np.int64)).max() <= 2**30
    assert (np.abs(codes.astype(np.int64)).max() > 2**28) == raised
