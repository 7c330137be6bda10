"""Weights without elements, and tensors that are empty on all of the calibration data."""

import logging
from typing import Any

import pytest
from numpy.typing import NDArray

import converter
from passes.numerics.error import sqnr_db
from tests.support.graphs import array, node, run
from tests.support.models import make_model


@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_a_layer_without_inputs_or_outputs_stays_in_float(recipe: str) -> None:
    """A product over no inputs is zero, and one with no outputs is empty."""
    nodes = [
        node("MatMul", ["x", "w"], ["a"], "first"),
        node("MatMul", ["e", "none"], ["b"], "no_inputs"),
        node("MatMul", ["a", "never"], ["z"], "no_outputs"),
        node("Add", ["a", "b"], ["c"]),
        node("Relu", ["c"], ["d"]),
        node("MatMul", ["d", "v"], ["y"], "last"),
    ]
    weights = {"w": array(4, 8), "none": array(0, 8), "never": array(8, 0), "v": array(8, 3)}
    model = make_model(nodes, weights, inputs={"x": ["n", 4], "e": ["n", 0]}, outputs={"y": ["n", 3], "z": ["n", 0]})
    data = {"x": array(64, 4), "e": array(64, 0)}
    result = converter.convert(model, data, recipe=recipe)
    reasons = {layer.name: layer.reason for layer in result.layers}
    assert reasons["no_inputs"] == "its weight of shape (0, 8) has no elements"
    assert reasons["no_outputs"] == "its weight of shape (8, 0) has no elements"
    assert {layer.bits for layer in result.layers if not layer.reason} == {int(recipe[3:])}
    few = {name: values[:4] for name, values in data.items()}
    assert sqnr_db(run(model, few)[0], run(result.model, few)[0]) > (30 if recipe == "int8" else 15)
    assert run(result.model, few)[1].shape == (4, 0)


@pytest.mark.parametrize("recipe", ["int8", "int4", "int4-weight-only"])
def test_a_layer_that_sees_nothing_stays_in_float(recipe: str, caplog: pytest.LogCaptureFixture) -> None:
    """Every call starts without a past. The layers on it compute what they did when there is one."""
    nodes = [
        node("MatMul", ["x", "w"], ["k"], "now"),
        node("MatMul", ["past", "u"], ["p"], "before"),
        node("Relu", ["p"], ["q"]),
        node("Concat", ["q", "k"], ["all"], axis=0),
        node("MatMul", ["all", "v"], ["y"], "last"),
    ]
    weights = {"w": array(16, 16), "u": array(16, 16), "v": array(16, 8)}
    model = make_model(nodes, weights, inputs={"x": ["s", 16], "past": ["p", 16]}, outputs={"y": ["t", 8]})

    def calls(past: int) -> list[dict[str, NDArray[Any]]]:
        return [{"x": array(3, 16, seed=seed), "past": array(past, 16, seed=seed)} for seed in range(40)]

    with caplog.at_level(logging.WARNING):
        result = converter.convert(model, calls(0), recipe=recipe)
    assert "past is empty in every sample, so it calibrates nothing" in caplog.text
    reasons = {layer.name: layer.reason for layer in result.layers}
    assert reasons["before"] == "no value reaches it on the calibration data"
    assert not reasons["now"]
    few = calls(0)[0]
    assert sqnr_db(run(model, few)[0], run(result.model, few)[0]) > (30 if recipe == "int8" else 15)
    assert run(result.model, calls(2)[0])[0].shape == (5, 8)
