"""The network itself says whether its activations are clipped: on samples that did not give the ranges."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from converter import Recipe, convert
from converter.calibration.range_trial import choose_ranges
from converter.calibration.statistics import calibrate
from passes.activations.activation_ranges import ActivationRanges
from passes.graph.normalise.normalise import Normalise
from passes.numerics.error import sqnr_db
from passes.weights.rtn import Rtn
from tests.support.networks import dataset, network, prepared, quiet, random, run

node = helper.make_node


def powers(exponent: float) -> onnx.ModelProto:
    """Two layers, and then a power of their output in float. The higher, the more the largest values count."""
    constants: dict[str, NDArray[Any]] = {"p": np.array(exponent, np.float32), "w": np.eye(16, dtype=np.float32)}
    constants["v"] = np.eye(16, dtype=np.float32) + random(16, 16) * np.float32(0.02)
    nodes = [
        node("MatMul", ["x", "w"], ["a"], "first"),
        node("Relu", ["a"], ["r"], "relu"),
        node("MatMul", ["r", "v"], ["b"], "second"),
        node("Abs", ["b"], ["c"], "abs"),
        node("Pow", ["c", "p"], ["y"], "power"),
    ]
    return network(nodes, constants, {"x": ["N", 200, 16]}, {"y": ["N", 200, 16]})


def rows(count: int) -> NDArray[np.float32]:
    """Normal values: the fourth power of the largest is most of the sum of all of them."""
    return random(count, 200, 16)


@pytest.mark.parametrize(("exponent", "method"), [(4.0, "minmax"), (1.0, "mse")])
def test_what_the_output_loses_decides(exponent: float, method: str) -> None:
    model = powers(exponent)
    chosen, notes = choose_ranges(ActivationRanges(), prepared(model), dataset(model, rows(80)), quiet)
    assert chosen.method == method
    assert bool(notes) == (method == "minmax")
    assert all("ranges of all values" in note for note in notes)


@pytest.mark.parametrize(("exponent", "method"), [(4.0, "minmax"), (1.0, "mse")])
def test_many_samples_are_not_measured_again(exponent: float, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 128 samples on, the statistics of all of them give the ranges."""
    model = powers(exponent)
    step, data = ActivationRanges(), dataset(model, rows(128))
    known = calibrate(prepared(model), step.needs(prepared(model)), data, quiet)
    monkeypatch.setattr("converter.calibration.range_trial.calibrate", None)
    chosen, _ = choose_ranges(step, prepared(model), data, quiet, stats=known)
    assert chosen.method == method


def test_few_samples_are_judged_on_others(monkeypatch: pytest.MonkeyPatch) -> None:
    model = powers(4.0)
    step, data, measured = ActivationRanges(), dataset(model, rows(127)), []
    known = calibrate(prepared(model), step.needs(prepared(model)), data, quiet)

    def spied(*arguments: Any, **options: Any) -> Any:
        measured.append(len(arguments[2]))
        return calibrate(*arguments, **options)

    monkeypatch.setattr("converter.calibration.range_trial.calibrate", spied)
    choose_ranges(step, prepared(model), data, quiet, stats=known)
    assert measured == [64]


def test_the_pass_takes_what_was_chosen_and_says_so() -> None:
    model, x = powers(4.0), rows(80)
    results = {
        method: convert(model, x, recipe=Recipe("r", "", (Normalise(), ActivationRanges(method), Rtn(bits=8))))
        for method in ("mse", "minmax")
    }
    ranges = {name: next(p for p in result.passes if p.name == "activation_ranges") for name, result in results.items()}
    assert any("against" in note for note in ranges["mse"].notes)
    assert ranges["mse"].ranges == ranges["minmax"].ranges
    errors = [sqnr_db(run(model, x)[0], run(result.model, x)[0]) for result in results.values()]
    assert errors[0] == errors[1]


@pytest.mark.parametrize(
    "step", [ActivationRanges("percentile"), ActivationRanges("minmax"), ActivationRanges("entropy")]
)
def test_other_methods_are_taken_as_they_are(step: ActivationRanges) -> None:
    model = powers(4.0)
    assert choose_ranges(step, prepared(model), dataset(model, rows(16)), quiet) == (step, ())


def test_one_sample_cannot_judge() -> None:
    model = powers(4.0)
    step = ActivationRanges()
    assert choose_ranges(step, prepared(model), dataset(model, rows(1)), quiet) == (step, ())
