"""AWQ: the output error falls, and the report has the losses of the search and every layer."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from passes.errors import QuantizationError
from passes.numerics.grid import Floats
from passes.numerics.weight_scale_search import search_grid
from passes.scale_migration.awq import Awq
from passes.statistics import Stats
from tests.support.graphs import array, assert_same_outputs
from tests.support.layers_with_statistics import depthwise_chain, inputs_of, perceptron, second_layer_statistics


def rounded_error(weight: Floats, x: Floats) -> float:
    """Return the relative output error of ``weight`` [1, o, k], rounded to 4 bits."""
    grid = search_grid(weight, 4, np.ones((1, weight.shape[2]), np.float32), candidates=20)
    difference = grid.values(grid.codes(weight)) - weight
    return float(np.square(x @ difference[0].T).sum() / np.square(x @ weight[0].T).sum())


def test_the_output_error_falls_by_what_the_report_says() -> None:
    model = perceptron()
    before = gs.export_onnx(model.graph)
    x = inputs_of(model)
    plain = rounded_error(model.weight(model.layers()["second"]), x)
    report = Awq().apply(model, second_layer_statistics(x))
    scaled = rounded_error(model.weight(model.layers()["second"]), inputs_of(model))
    assert scaled < 0.8 * plain
    change = report.changed["second"]
    assert change.what.startswith("inputs scaled with alpha 0.")
    assert change.before_db == pytest.approx(-10 * np.log10(plain), abs=0.02)
    assert change.after_db == pytest.approx(-10 * np.log10(scaled), abs=0.02)
    assert report.changed["first"].what == "rescaled together with the layers beside it"
    assert report.skipped == {}
    assert_same_outputs(before, model.graph, array(20, 10), 1e-5)


def test_the_report_has_the_losses_and_the_least_is_taken() -> None:
    model = perceptron()
    report = Awq(steps=5, factors=(2.0, 1.5)).apply(model, second_layer_statistics(inputs_of(model)))
    grid = report.grids["second"]
    assert grid.axes == {"alpha": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "factor": (1.0, 1.5, 2.0)}
    assert grid.losses.shape == (6, 3)
    assert grid.plain == grid.losses[0, 0]
    after = report.changed["second"].after_db
    assert after == pytest.approx(-10 * np.log10(grid.losses.min()))


def test_the_salient_form_scales_the_salient_channels_alone() -> None:
    """One channel is 20 times as large. α = 1 would make all others coarser; four times finer steps are best."""
    model = perceptron(hidden=24)
    x = np.abs(array(400, 24))
    x[:, 5] *= 20
    weight = model.weight(model.layers()["second"])
    report = Awq(steps=1, factors=(4.0,)).apply(model, second_layer_statistics(x))
    assert report.changed["second"].what == "inputs scaled with alpha 0, salient ones by 4"
    ratio = model.weight(model.layers()["second"]) / weight
    np.testing.assert_allclose(ratio[:, :, 5], 4, rtol=1e-6)
    np.testing.assert_allclose(np.delete(ratio, 5, axis=2), 1, rtol=1e-6)
    losses = report.grids["second"].losses
    assert losses[0, 1] < 0.7 * losses[0, 0]
    assert losses[0, 1] < losses[1].min()


def test_a_layer_that_no_scale_helps_is_not_changed() -> None:
    model = perceptron()
    x = inputs_of(model)
    x = np.ones_like(x) * np.abs(array(len(x), 1))  # all channels are equal: s is 1 for every α
    weight = model.weight(model.layers()["second"])
    report = Awq(factors=(1.0,)).apply(model, second_layer_statistics(x))
    assert report.changed == {}
    assert report.skipped == {
        "first": "x is an input of the model",
        "second": "no scale lowers the output error by 5 %",
    }
    np.testing.assert_array_equal(model.weight(model.layers()["second"]), weight)


def test_layers_that_are_not_rescaled_have_a_reason() -> None:
    model = perceptron(activation="Sigmoid")
    report = Awq().apply(model, Stats())
    assert report.skipped["second"] == "activation (Sigmoid) does not pass a channel's scale on"
    model = perceptron()
    model.float_reasons["second"] = "excluded by the recipe"
    assert not Awq().needs(model)
    report = Awq().apply(model, Stats())
    assert report.skipped["second"] == "excluded by the recipe"
    assert set(report.skipped) == {"first", "second"}


def test_it_requests_the_statistics_it_reads_and_is_refused_without_them() -> None:
    model = depthwise_chain()
    needs = Awq().needs(model)
    assert needs.channels == needs.moments == {"deep", "project"}
    with pytest.raises(QuantizationError, match="deep: awq needs calibration data; use `calibration=`"):
        Awq().apply(model, Stats())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bits": 9}, "weight bits must be 2 to 8, not 9"),
        ({"block_size": 0}, "block_size must be at least 1, not 0"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"factors": (1.0, -1.0)}, "factors must be positive"),
        ({"factors": (float("nan"),)}, "factors must be positive"),
        ({"salient_share": 0.0}, "salient_share must be above 0 and at most 1, not 0.0"),
    ],
)
def test_invalid_fields_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Awq(**fields)  # type: ignore[arg-type]
