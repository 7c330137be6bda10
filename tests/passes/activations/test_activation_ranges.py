"""Activation ranges: every quantized tensor has a grid. Moved values share it, and an absorbed clamp limits it."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.activations.activation_ranges import ActivationRanges
from passes.ir.model import Model
from passes.ir.rules import Rules
from passes.numerics.activation_range_search import entropy, minmax, mse, percentile
from passes.numerics.histogram import Histogram
from passes.statistics import Stats
from tests.support.graphs import array, build, node, run
from tests.support.integer_rules import RULES

Method = Literal["mse", "percentile", "entropy", "minmax"]


def network(clamp: Sequence[onnx.NodeProto] = ()) -> onnx.ModelProto:
    """Conv -> clamp -> MaxPool -> Conv -> GlobalAveragePool -> Flatten -> Gemm (logits)."""
    nodes = [
        node("Conv", ["x", "c1.w"], ["a"], name="c1"),
        *(clamp or [node("Relu", ["a"], ["b"], name="relu")]),
        node("MaxPool", ["b"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p", "c2.w"], ["c"], name="c2"),
        node("GlobalAveragePool", ["c"], ["g"], name="mean"),
        node("Flatten", ["g"], ["f"], name="flatten"),
        node("Gemm", ["f", "fc.w"], ["y"], name="fc"),
    ]
    constants = {"c1.w": array(6, 3, 3, 3), "c2.w": array(5, 6, 1, 1), "fc.w": array(5, 4)}
    if clamp:
        limits = {"zero": 0.0, "six": 6.0, "low": -1e6, "huge": 1e6}
        constants |= {name: np.asarray(limits[name], np.float32) for item in clamp for name in item.input[1:]}
    return build(nodes, constants, (4, 3, 10, 10))


def model_of(proto: onnx.ModelProto, rules: Rules = RULES) -> Model:
    return Model(gs.import_onnx(proto), rules)


def stats_of(proto: onnx.ModelProto, step: ActivationRanges, model: Model) -> tuple[Stats, dict[str, np.ndarray]]:
    """Return the histograms of one batch that the pass requests, and the tensors."""
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    x = array(4, 3, 10, 10, seed=3)
    names = sorted(step.needs(model).histograms)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names if name != "x")
    tensors = dict(zip((name for name in names if name != "x"), run(watched, x), strict=True)) | {"x": x}
    histograms = {name: Histogram() for name in names}
    for name, histogram in histograms.items():
        histogram.update(tensors[name])
    return Stats(histograms), tensors


def applied(
    step: ActivationRanges, rules: Rules = RULES, clamp: Sequence[onnx.NodeProto] = ()
) -> tuple[Model, dict[str, np.ndarray], Stats]:
    proto = network(clamp)
    model = model_of(proto, rules)
    stats, tensors = stats_of(proto, step, model)
    step.apply(model, stats)
    return model, tensors, stats


def test_needs_a_histogram_of_every_tensor_with_a_grid_of_its_own() -> None:
    needs = ActivationRanges().needs(model_of(network()))
    assert needs.histograms == {"x", "b", "c", "g"}  # p and f share a grid, a is absorbed, y stays in float
    assert not needs.channels
    assert not needs.moments


def test_every_placed_tensor_gets_a_grid_and_moved_ones_share_it() -> None:
    model, _, _ = applied(ActivationRanges())
    assert list(model.activation_qparams) == ["x", "b", "p", "c", "g", "f"]
    assert model.activation_qparams["p"] is model.activation_qparams["b"]
    assert model.activation_qparams["f"] is model.activation_qparams["g"]
    assert model.activation_qparams["c"] is not model.activation_qparams["b"]


def test_minmax_clips_nothing() -> None:
    model, tensors, _ = applied(ActivationRanges(method="minmax"))
    for name, values in tensors.items():
        grid = model.activation_qparams[name]
        assert (grid.low, grid.high) == pytest.approx((min(values.min(), 0), max(values.max(), 0)), rel=1e-6)
        assert np.abs(grid.values(values) - values).max() <= 0.51 * grid.scale


@pytest.mark.parametrize("method", ["mse", "percentile", "entropy", "minmax"])
def test_every_method_gives_its_range(method: Method) -> None:
    model, _, stats = applied(ActivationRanges(method=method, percentile=99.0))
    rules = {
        "mse": lambda h: mse(h, 8, symmetric=False),
        "percentile": lambda h: percentile(h, 99.0),
        "entropy": lambda h: entropy(h, 8),
        "minmax": minmax,
    }
    for name in ("x", "c", "g"):
        low, high = rules[method](stats.histograms[name])
        assert (model.activation_qparams[name].low, model.activation_qparams[name].high) == (low, high)


def test_lower_percentiles_clip_more() -> None:
    spans = []
    for p in (100.0, 99.0, 90.0):
        model, _, _ = applied(ActivationRanges(method="percentile", percentile=p))
        spans.append(model.activation_qparams["x"].high - model.activation_qparams["x"].low)
    assert spans[0] > 1.1 * spans[1] > 1.1 * spans[2]


def test_mse_has_the_least_error() -> None:
    errors = {}
    for method in ("mse", "minmax", "entropy"):
        model, tensors, _ = applied(ActivationRanges(method=method))
        errors[method] = {
            n: float(np.square(model.activation_qparams[n].values(v) - v).mean()) for n, v in tensors.items()
        }
    for name in errors["mse"]:
        assert errors["mse"][name] <= 1.02 * min(errors["minmax"][name], errors["entropy"][name])


def test_an_absorbed_relu_leaves_no_code_for_negative_numbers() -> None:
    for rules, zero_point in ((RULES, 0), (dataclasses.replace(RULES, signed=True), -128)):
        model, _, _ = applied(ActivationRanges(), rules)
        grid = model.activation_qparams["b"]
        assert (grid.low, grid.zero_point) == (0.0, zero_point)
        assert grid.values(np.array([-5.0], np.float32))[0] == 0  # the saturation of the quantizer does the clamp


@pytest.mark.parametrize("method", ["mse", "percentile", "entropy", "minmax"])
def test_an_absorbed_clip_cuts_the_range(method: Method) -> None:
    clamp = [node("Clip", ["a", "zero", "six"], ["b"], name="clip")]
    model, tensors, _ = applied(ActivationRanges(method=method), clamp=clamp)
    assert tensors["b"].max() == 6
    grid = model.activation_qparams["b"]
    assert (grid.low, grid.zero_point) == (0.0, 0)
    assert grid.high <= 6
    assert grid.values(np.array([-1e3, 1e3], np.float32)) == pytest.approx([0, grid.high], rel=1e-6)


def test_a_clip_wider_than_the_data_wastes_no_codes() -> None:
    clamp = [node("Clip", ["a", "low", "huge"], ["b"], name="clip")]
    model, tensors, _ = applied(ActivationRanges(method="minmax"), clamp=clamp)
    assert model.activation_qparams["b"].high == pytest.approx(tensors["b"].max(), rel=1e-6)
    assert model.activation_qparams["b"].low == pytest.approx(tensors["b"].min(), rel=1e-6)


@pytest.mark.parametrize("signed", [True, False])
def test_symmetric_targets_get_symmetric_grids(signed: bool) -> None:
    model, _, _ = applied(ActivationRanges(), dataclasses.replace(RULES, symmetric=True, signed=signed))
    assert model.activation_qparams["x"].zero_point == (0 if signed else 128)
    assert all(grid.signed == signed for grid in model.activation_qparams.values())
    assert model.activation_qparams["b"].zero_point == 0  # after a Relu: uint8 from 0, int8 around 0


def test_every_layer_is_reported_once() -> None:
    proto = network()
    model = model_of(proto)
    model.float_reasons["c2"] = "measured slower"
    step = ActivationRanges(method="minmax")
    stats, tensors = stats_of(proto, step, model)
    report = step.apply(model, stats)
    assert set(report.changed) == {"c1", "fc"}
    assert report.skipped == {"c2": "measured slower"}
    low, high = (f"{end(tensors['x']):.4g}" for end in (np.min, np.max))
    assert report.changed["c1"].what == f"input quantized over {low} to {high}"


def test_a_layer_without_an_integer_kernel_says_so() -> None:
    proto = network()
    model = model_of(proto, dataclasses.replace(RULES, linear=frozenset({"Conv"})))
    step = ActivationRanges()
    stats, _ = stats_of(proto, step, model)
    report = step.apply(model, stats)
    assert set(report.changed) == {"c1", "c2"}
    assert report.skipped == {"fc": "the target has no integer Gemm"}


def test_a_second_run_replaces_the_ranges() -> None:
    proto = network()
    model = model_of(proto)
    step = ActivationRanges(method="minmax")
    stats, _ = stats_of(proto, step, model)
    step.apply(model, stats)
    model.float_reasons.update(c1="kept", c2="kept")
    stats, _ = stats_of(proto, step, model)
    step.apply(model, stats)
    assert set(model.activation_qparams) == {"f"}


@pytest.mark.parametrize("percent", [0.0, 50.0, 100.5, -3.0])
def test_a_percentile_outside_its_domain_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match=f"percentile must be above 50 and at most 100, not {percent}"):
        ActivationRanges(method="percentile", percentile=percent)
