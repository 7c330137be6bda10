"""What each rounding costs: single errors add up to the error of the file, and the worst source is found."""

import itertools
import math

import numpy as np
import pytest

import converter
from converter.budget.sensitivity import sensitivity
from converter.error_sources.choose import choose
from converter.error_sources.measure import ErrorSource, measure
from passes.weights.rtn import Rtn
from tests.support.graphs import array, build, node
from tests.support.networks import images, quantize, resnet
from tests.support.outlier_network import SHAPE, residual, with_outlier

DATA = array(48, *SHAPE)


@pytest.mark.parametrize("bits", [8, 5])
def test_errors_of_single_roundings_add_up_to_that_of_the_file(bits: int) -> None:
    """Weights are rounded to nearest: GPTQ's codes make up for each other's errors, so their sum is an upper limit."""
    plan = converter.find_recipe("int8").with_solver(bits=bits)
    found = sensitivity(residual(), DATA, recipe=plan)
    result = converter.convert(residual(), DATA, recipe=plan)
    assert result.fidelity is not None
    summed = -10 * math.log10(sum(source.noise("y") for source in found.sources))
    assert summed == pytest.approx(result.fidelity.outputs["y"], abs=1.5)
    assert {source.bits for source in found.sources if source.kind == "weight"} == {bits}


def test_every_rounding_is_a_source_once() -> None:
    found = sensitivity(residual(), DATA)
    weights = [source.names for source in found.sources if source.kind == "weight"]
    assert sorted(weights) == [("first",), ("head",), ("second",)]
    activations = [name for source in found.sources if source.kind == "activation" for name in source.names]
    assert len(activations) == len(set(activations))
    (pooled,) = [source for source in found.sources if "d" in source.names]
    assert {"e", "f"} <= set(pooled.names)  # the same values, so rounded together
    assert {"add", "pool", "head"} <= set(pooled.nodes)
    assert sum(found.share(source) for source in found.sources) == pytest.approx(1)


def test_the_worst_source_comes_first() -> None:
    found = sensitivity(with_outlier(), DATA)
    assert (found.ranked()[0].kind, found.ranked()[0].name) == ("weight", "second")
    assert found.share(found.ranked()[0]) > 0.3
    assert "second" in found.summary()


def test_what_is_left_in_float_is_no_source() -> None:
    found = sensitivity(with_outlier(), DATA, exclude=["second"])
    assert "second" not in {source.name for source in found.sources}


def test_parts_of_an_output_are_measured_alone() -> None:
    """Boxes in pixels beside scores: the rounding that spoils the scores is found."""
    nodes = [
        node("Conv", ["x", "w1"], ["a"], name="boxes"),
        node("Conv", ["x", "w2"], ["b"], name="scores"),
        node("Concat", ["a", "b"], ["y"], name="join", axis=1),
    ]
    constants = {"w1": 1000 * array(4, 3, 1, 1), "w2": 0.01 * array(6, 3, 1, 1)}
    model = build(nodes, constants, ["n", 3, 12, 12])
    found = sensitivity(model, DATA)
    assert set(found.outputs) == {"y[:, :4]", "y[:, 4:]"}
    (scores,) = [source for source in found.sources if source.kind == "weight" and source.name == "scores"]
    assert scores.sqnr_db["y[:, :4]"] == math.inf
    assert scores.sqnr_db["y[:, 4:]"] < 60


def test_a_layer_behind_a_choice_is_measured_on_the_same_choice() -> None:
    """Which rows are the best two changes with any rounding. What the decoder loses does not."""
    nodes = [
        node("MatMul", ["x", "w"], ["rows"], name="layer"),
        node("ReduceMean", ["rows"], ["means"], name="means", axes=[2], keepdims=0),
        node("TopK", ["means", "two"], ["values", "index"], name="top", axis=1),
        node("Unsqueeze", ["index", "last"], ["column"], name="column"),
        node("GatherND", ["rows", "column"], ["picked"], name="pick", batch_dims=1),
        node("MatMul", ["picked", "d"], ["y"], name="decoder"),
    ]
    constants = {"w": array(16, 16), "d": array(16, 8), "two": np.array([2]), "last": np.array([2])}
    model = build(nodes, constants, [1, 6, 16])
    plan = converter.find_recipe("int8").with_solver(layer_bits={"decoder": 3})
    found = sensitivity(model, array(64, 6, 16), recipe=plan)
    first = found.ranked()[0]
    assert (first.kind, first.name) == ("weight", "decoder")
    assert 5 < first.worst_db < 25
    assert all(each.worst_db > 25 for each in found.ranked()[1:])


def source(name: str, sqnr: float, kind: str = "activation", *nodes: str) -> ErrorSource:
    return ErrorSource(kind, (name,), nodes or (name,), 8, {"y": sqnr})  # type: ignore[arg-type]


def test_the_largest_source_is_chosen() -> None:
    sources = [source("a", 40), source("b", 20), source("c", 41)]
    measured = {"y": -10 * math.log10(sum(each.noise("y") for each in sources))}
    assert choose(sources, measured, 30, [], {}) == [sources[1]]
    assert choose(sources, measured, 15, [], {}) == []
    assert choose(sources, {"y": 37.0}, 39, [sources[1]], {}) == [sources[0]]
    broken = source("d", -math.inf)
    assert choose([*sources, broken], {"y": -math.inf}, 15, [], {}) == [broken]


def test_of_equal_sources_the_cheaper_one_is_chosen() -> None:
    sources = [source("slow", 20), source("fast", 20)]
    measured = {"y": 17.0}
    assert choose(sources, measured, 19, [], {"slow": 10.0, "fast": 1.0})[0].name == "fast"


def test_an_activation_whose_nodes_are_in_float_already_costs_nothing() -> None:
    """`b` lies between nodes that `a` moves to float, so it need not be chosen."""
    sources = [source("a", 15, "activation", "first", "second"), source("b", 20, "activation", "second")]
    measured = {"y": -10 * math.log10(sum(each.noise("y") for each in sources))}
    assert choose(sources, measured, 40, [], {}) == [sources[0]]


def test_no_source_at_all() -> None:
    assert choose([], {"y": 10.0}, 20, [], {}) == []
    assert math.isinf(source("a", math.inf).worst_db)


def test_fewer_samples_measure_where_all_would_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(8, 3, 12, 12)
    model = quantize(resnet(), Rtn(bits=8), x, ranges=True)
    samples = [{"x": x[2 * index : 2 * index + 2]} for index in range(4)]
    two = measure(model, samples[:2])
    assert {source.name for source in two} > set(model.quantized)
    assert two != measure(model, samples)
    times = itertools.count(step=4)  # four samples take four seconds
    monkeypatch.setattr("converter.error_sources.measure.time.monotonic", lambda: next(times))
    assert measure(model, samples, within=2.5 * len(two)) == two
    assert measure(model, samples, within=0.5 * len(two)) == ()
