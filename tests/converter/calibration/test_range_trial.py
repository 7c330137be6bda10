"""The network itself says whether its activations are clipped: on samples that did not give the ranges."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from converter import Recipe, convert
from converter.calibration.range_trial import choose_ranges, trial_samples
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
    model, step, data = powers(exponent), ActivationRanges(), dataset(powers(exponent), rows(80))
    parts = trial_samples(step, data, 0)
    assert parts is not None
    stats = calibrate(prepared(model), step.needs(prepared(model)), parts[0], quiet)
    chosen, notes = choose_ranges(step, prepared(model), stats, parts[1])
    assert chosen.method == method
    assert bool(notes) == (method == "minmax")
    assert all("ranges of all values" in note for note in notes)


@pytest.mark.parametrize(("count", "judging"), [(2, 1), (3, 2), (64, 32), (80, 32), (300, 32)])
def test_every_sample_gives_ranges_or_judges_them(count: int, judging: int) -> None:
    parts = trial_samples(ActivationRanges(), dataset(powers(1.0), np.zeros((count, 200, 16), np.float32)), 3)
    assert parts is not None
    assert (len(parts[0]), len(parts[1])) == (count - judging, judging)


def test_no_sample_is_measured_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def spied(*arguments: Any, **options: Any) -> Any:
        measured.append(len(arguments[2]))
        return calibrate(*arguments, **options)

    monkeypatch.setattr("converter.pipeline.shards.calibrate", spied)
    recipe = Recipe("r", "", (Normalise(), ActivationRanges(), Rtn(bits=8)))
    convert(powers(1.0), rows(80), recipe=recipe)
    assert len(measured) == 2
    assert measured[1] == 32
    assert sum(measured) <= 80


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
    "step",
    [
        ActivationRanges("percentile"),
        ActivationRanges("minmax"),
        ActivationRanges("entropy"),
        ActivationRanges(bits=16),
    ],
)
def test_other_methods_are_taken_as_they_are(step: ActivationRanges) -> None:
    assert trial_samples(step, dataset(powers(4.0), rows(16)), 0) is None


def test_one_sample_cannot_judge() -> None:
    assert trial_samples(ActivationRanges(), dataset(powers(4.0), rows(1)), 0) is None
