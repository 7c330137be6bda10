"""SmoothQuant: outliers move into the weights, and without outliers nothing changes."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from passes.errors import QuantizationError
from passes.ir.model import Model
from passes.numerics.channels import ChannelStatistics
from passes.numerics.grid import ActivationGrid, Floats
from passes.scale_migration.rescale import rescale
from passes.scale_migration.scale_groups import scale_groups
from passes.scale_migration.smoothquant import SmoothQuant
from passes.statistics import Stats
from tests.support.graphs import array, assert_same_outputs, build, node
from tests.support.integer_rules import RULES
from tests.support.layers_with_statistics import depthwise_chain, inputs_of, perceptron, second_layer_statistics


def with_outlier(factor: float = 50.0) -> tuple[Model, Floats]:
    """Return a perceptron whose hidden channel 3 is exactly ``factor`` times larger, and its inputs."""
    model = perceptron()
    (group,) = scale_groups(model).groups
    factors = np.ones(group.size)
    factors[3] = factor
    rescale(model, group, factors)
    return model, inputs_of(model)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_a_fixed_alpha_is_the_papers_equation(alpha: float) -> None:
    model = perceptron()
    before = gs.export_onnx(model.graph)
    x = inputs_of(model)
    old = model.weight(model.layers()["second"])[0]
    report = SmoothQuant(alpha=alpha).apply(model, second_layer_statistics(x))
    expected = np.abs(x).max(axis=0) ** alpha / np.abs(old).max(axis=0) ** (1 - alpha)
    scales = model.weight(model.layers()["second"])[0] / old
    np.testing.assert_allclose(
        scales, np.broadcast_to(expected / np.exp(np.log(expected).mean()), old.shape), rtol=1e-4
    )
    assert report.changed["second"].what == f"inputs smoothed with alpha {alpha:g}"
    assert_same_outputs(before, model.graph, array(20, 10), 1e-5)


def test_the_search_undoes_an_outlier() -> None:
    model, x = with_outlier()
    peaks = x.max(axis=0)
    assert peaks[3] > 10 * np.median(peaks)
    report = SmoothQuant().apply(model, second_layer_statistics(x))
    peaks = inputs_of(model).max(axis=0)
    assert peaks[3] < 4 * np.median(peaks)
    change = report.changed["second"]
    assert change.before_db is not None
    assert change.after_db is not None
    assert change.after_db > change.before_db + 15
    grid = report.grids["second"]
    assert len(grid.axes["alpha"]) == len(grid.losses) == 21
    assert change.after_db == pytest.approx(-10 * np.log10(grid.losses.min()))
    assert change.before_db == pytest.approx(-10 * np.log10(grid.plain))


def test_the_search_does_not_change_equal_channels() -> None:
    model = perceptron()
    x = inputs_of(model)
    even = x / x.max(axis=0)
    model.graph.nodes[2].inputs[1].values = np.sign(array(12, 16)).astype(np.float32)
    report = SmoothQuant().apply(model, second_layer_statistics(even))
    assert report.changed == {}
    assert report.skipped == {
        "first": "x is an input of the model",
        "second": "no alpha is expected to lower the noise by 5 %",
    }


def test_dead_channels_stay_as_they_are() -> None:
    model = perceptron()
    x = inputs_of(model)
    x[:, 2] = 0
    old = model.weight(model.layers()["second"])[0]
    SmoothQuant(alpha=0.5).apply(model, second_layer_statistics(x))
    new = model.weight(model.layers()["second"])[0]
    np.testing.assert_array_equal(new[:, 2], old[:, 2])
    assert not np.array_equal(new[:, 1], old[:, 1])


def test_needs_and_refusals() -> None:
    model = depthwise_chain()
    needs = SmoothQuant().needs(model)
    assert needs.channels == {"deep", "project"}
    assert not needs.moments
    with pytest.raises(QuantizationError, match="deep: smoothquant needs calibration data; use `calibration=`"):
        SmoothQuant().apply(model, Stats())
    model.activation_qparams["b"] = ActivationGrid.of(0, 1)
    with pytest.raises(QuantizationError, match="put the pass before activation_ranges"):
        SmoothQuant().needs(model)


def residual() -> Model:
    """Make x -> first -> Relu -> a; a -> second -> t; reader of Relu(a + t). a, t and the sum share one scale."""
    nodes = [
        node("Conv", ["x", "first.w"], ["h"], name="first"),
        node("Relu", ["h"], ["a"], name="relu1"),
        node("Conv", ["a", "second.w"], ["t"], name="second"),
        node("Add", ["a", "t"], ["sum"], name="add"),
        node("Relu", ["sum"], ["r"], name="relu2"),
        node("Conv", ["r", "reader.w"], ["y"], name="reader"),
    ]
    constants = {"first.w": array(6, 3, 1, 1), "second.w": array(6, 6, 1, 1), "reader.w": array(4, 6, 1, 1)}
    return Model(gs.import_onnx(build(nodes, constants, ("N", 3, 4, 4))), RULES)


def channel_statistics(spread: list[float]) -> ChannelStatistics:
    statistics = ChannelStatistics(len(spread))
    statistics.update(np.abs(array(500, len(spread))) * np.array(spread, np.float32))
    return statistics


def test_operands_of_a_sum_are_measured_too() -> None:
    needs = SmoothQuant().needs(residual())
    assert needs.channels == {"second", "reader"}
    assert needs.tensors == {("t", 1)}  # inputs of layers have statistics already, and the sum is not quantized
    assert not SmoothQuant().needs(perceptron()).tensors
    excluded = residual()
    excluded.float_reasons.update(dict.fromkeys(("second", "reader"), "excluded"))
    assert not SmoothQuant().needs(excluded).tensors


@pytest.mark.parametrize("cancels", [False, True])
def test_a_scale_that_would_harm_an_operand_is_not_taken(cancels: bool) -> None:
    """If an operand is large but the sum is small, the readers alone would prefer larger activations."""
    model = residual()
    small = [1, 1, 1, 0.02, 1, 1]
    channels = {name: channel_statistics(small) for name in ("second", "reader")}
    stats = Stats(channels=channels, tensors={"t": channel_statistics([1, 1, 1, 20, 1, 1] if cancels else small)})
    model.node("second").inputs[1].values = np.sign(array(6, 6, 1, 1))
    model.node("reader").inputs[1].values = (
        np.sign(array(4, 6, 1, 1)) / np.array(small, np.float32)[None, :, None, None]
    )
    report = SmoothQuant().apply(model, stats)
    assert ("reader" in report.changed) is not cancels


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_alpha_outside_0_to_1_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must be 0 to 1 or 'search', not"):
        SmoothQuant(alpha=alpha)
    with pytest.raises(ValueError, match="weight bits must be 2 to 8, not 16"):
        SmoothQuant(bits=16)
