"""Samples are stacked into batches only where the model gives each what it gives it alone."""

import numpy as np
import onnx
import pytest

import converter
from converter.data.dataset import load_data
from converter.data.inputs import input_specs
from converter.runtime.runner import Runner
from converter.runtime.stacking import samples_alone
from tests.support.graphs import array, build, node

DATA = array(32, 3, 8, 8)
W = {"w": array(4, 3, 3, 3) / 5, "v": array(64, 5) / 8, "wide": array(4 * 36, 5) / 12}


def network(shape: list[int]) -> onnx.ModelProto:
    """A convolution, a Reshape to a fixed shape, and a product."""
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="conv"),
        node("Relu", ["a"], ["b"]),
        node("Reshape", ["b", "shape"], ["c"]),
        node("MatMul", ["c", "wide"], ["y"], name="fc"),
    ]
    constants = {"w": W["w"], "wide": W["wide"], "shape": np.array(shape)}
    return build(nodes, constants, ["n", 3, 8, 8], output_shape=["m", 5])


def mixing() -> onnx.ModelProto:
    """The batch is the softmax's axis, so each sample changes the others."""
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="conv"),
        node("GlobalAveragePool", ["a"], ["b"]),
        node("Softmax", ["b"], ["c"], axis=0),
        node("Mul", ["c", "a"], ["y"]),
    ]
    return build(nodes, {"w": W["w"]}, ["n", 3, 8, 8])


@pytest.mark.parametrize(
    ("model", "alone"),
    [(network([-1, 144]), False), (network([1, 144]), True), (mixing(), True)],
    ids=["open", "fixed", "mixing"],
)
def test_the_model_decides(model: onnx.ModelProto, alone: bool) -> None:
    data = load_data(DATA, input_specs(model))
    decided = samples_alone(data, Runner(model, "m"))
    assert decided.static_batch == (1 if alone else None)
    assert not decided.whole
    assert [batch.count for batch in decided.limit(16).batches(16)] == ([1] * 16 if alone else [16])
    assert decided.digest() == data.digest()


@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_a_model_of_one_sample_is_converted_and_measured(recipe: str) -> None:
    model = network([1, 144])
    result = converter.convert(model, DATA, recipe=recipe, evaluation=DATA[:6])
    assert [layer.bits for layer in result.layers] == [int(recipe[3:])] * 2
    assert result.metrics is not None
    sqnr = result.metrics.models[1].sqnr_db
    assert sqnr is not None
    assert sqnr > (30 if recipe == "int8" else 12)
    assert converter.compare(model, result.model, DATA[:6]).sqnr_db == pytest.approx(sqnr, abs=0.5)


@pytest.mark.parametrize("channels", [1, 4], ids=["scalar", "vector"])
def test_outputs_that_lose_their_batch_axis_stack(channels: int) -> None:
    """Squeeze removes a batch of one: [1, c, 1, 1] becomes [c], or a scalar."""
    nodes = [node("Conv", ["x", "w"], ["a"]), node("GlobalAveragePool", ["a"], ["b"]), node("Squeeze", ["b"], ["y"])]
    shape: list[int | str] = ["n"] if channels == 1 else ["n", channels]
    model = build(nodes, {"w": array(channels, 3, 3, 3)}, ["n", 3, 8, 8], output_shape=shape)
    data = load_data(DATA, input_specs(model))
    assert samples_alone(data, Runner(model, "m")) is data


@pytest.mark.parametrize(("mean", "alone"), [(False, False), (True, True)], ids=["constant", "mean of the batch"])
def test_an_output_of_one_size_must_have_one_value(mean: bool, alone: bool) -> None:
    nodes = [node("Conv", ["x", "w"], ["y"], name="conv")]
    nodes.append(node("ReduceMean", ["y"], ["z"]) if mean else node("Identity", ["v"], ["z"]))
    model = build(nodes, {"w": W["w"]} if mean else {"w": W["w"], "v": W["v"]}, ["n", 3, 8, 8], outputs=("y", "z"))
    assert samples_alone(load_data(DATA, input_specs(model)), Runner(model, "m")).static_batch == (1 if alone else None)
