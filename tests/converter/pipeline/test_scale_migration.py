"""SmoothQuant, AWQ and equalization on whole conversions: the file that was written, against the one without them."""

import json
from typing import Literal

import numpy as np
import onnx
import pytest

from converter import Recipe, Result, convert
from converter.calibration.statistics import calibrate
from converter.qdq.floats import float_model
from converter.recipes.toml import dump_recipe, parse_recipe
from converter.report.facts import conversion_facts
from passes.activations.activation_ranges import ActivationRanges
from passes.base import Pass
from passes.errors import RecipeError, UsageError
from passes.graph.exclude import Exclude
from passes.graph.fold_batchnorm import FoldBatchnorm
from passes.graph.normalise.normalise import Normalise
from passes.scale_migration.awq import Awq
from passes.scale_migration.equalize import Equalize
from passes.scale_migration.rescale import factors_of, input_factors, rescale
from passes.scale_migration.scale_groups import scale_groups
from passes.scale_migration.smoothquant import SmoothQuant
from passes.statistics import Stats
from passes.weights.gptq import Gptq
from passes.weights.rtn import Rtn
from tests.support.networks import dataset, decibels, images, prepared, quiet, relative_error, resnet, run

X, UNSEEN = images(48, 3, 12, 12), images(48, 3, 12, 12, seed=9)
PREPARE = (Normalise(), FoldBatchnorm())
W8 = (ActivationRanges(), Rtn(bits=8))
NOISE = 0.5  # dB by which two int8 files of one network differ for no reason


def with_outliers(factor: float, seed: int) -> onnx.ModelProto:
    """`resnet` with three channels of every group larger by ``factor``: the same function, exactly."""
    model = prepared(resnet())
    rng = np.random.default_rng(seed)
    for group in scale_groups(model).groups:
        factors = np.ones(group.size)
        factors[rng.choice(group.size, 3, replace=False)] = factor
        rescale(model, group, factors)
    return float_model(model.graph)


def converted(proto: onnx.ModelProto, *passes: Pass) -> Result:
    return convert(proto, X, recipe=Recipe("mine", "", (*PREPARE, *passes)))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("factor", [0.03, 10.0, 50.0])
def test_smoothquant_beats_plain_int8_where_channels_are_outliers(factor: float, seed: int) -> None:
    proto = with_outliers(factor, seed)
    assert relative_error(run(proto, UNSEEN)[0], run(resnet(), UNSEEN)[0]) < 1e-5
    plain, smooth = decibels(converted(proto, *W8), UNSEEN), decibels(converted(proto, SmoothQuant(), *W8), UNSEEN)
    assert smooth > plain + (3 if factor == 10 else 10)
    assert smooth > 40  # what the network without outliers gets, but for noise


def test_smoothquant_costs_nothing_where_there_are_none() -> None:
    assert (
        decibels(converted(resnet(), SmoothQuant(), *W8), UNSEEN) > decibels(converted(resnet(), *W8), UNSEEN) - NOISE
    )


@pytest.mark.parametrize("activations", [False, True], ids=["W4", "W4A8"])
def test_awq_beats_round_to_nearest(activations: bool) -> None:
    steps = (ActivationRanges(),) if activations else ()
    plain = decibels(converted(resnet(), *steps, Rtn(bits=4)), UNSEEN)
    assert decibels(converted(resnet(), Awq(), *steps, Rtn(bits=4)), UNSEEN) > plain + 2


def test_awq_reports_the_error_that_rounding_the_float_network_would_make() -> None:
    result = converted(resnet(), Awq(), Rtn(bits=4))
    report = result.passes[2]
    improved = {name: change for name, change in report.changed.items() if change.after_db is not None}
    assert {"block.conv1", "silu.conv", "fc"} <= set(improved)
    for change in improved.values():
        assert change.before_db is not None
        assert change.after_db is not None
    mean = np.mean([(change.after_db or 0) - (change.before_db or 0) for change in improved.values()])
    assert mean > 1
    assert set(report.changed) | set(report.skipped) == {layer.name for layer in result.layers}
    assert not set(report.changed) & set(report.skipped)
    shown = conversion_facts(result)["passes"][2]["grids"]["fc"]
    assert np.shape(shown["losses"]) == (11, 2)
    json.dumps(conversion_facts(result), allow_nan=False)


def test_awq_then_gptq() -> None:
    result = converted(resnet(), Awq(), ActivationRanges(), Gptq(bits=4))
    assert decibels(result, UNSEEN) > 20


@pytest.mark.parametrize("step", [SmoothQuant(alpha=0.5), Awq(steps=2), Equalize()], ids=lambda step: step.name)
def test_the_float_network_computes_the_same(step: SmoothQuant | Awq | Equalize) -> None:
    model = prepared(resnet())
    needs = step.needs(model)
    step.apply(model, calibrate(model, needs, dataset(model, X), quiet) if needs else Stats())
    assert relative_error(run(float_model(model.graph), UNSEEN)[0], run(resnet(), UNSEEN)[0]) < 1e-5


def test_statistics_in_closed_form_are_those_of_another_calibration() -> None:
    model = prepared(resnet())
    needs = Awq().needs(model)
    stats = calibrate(model, needs, dataset(model, X), quiet)
    groups = scale_groups(model).groups
    rng = np.random.default_rng(0)
    scales = [np.exp(rng.uniform(-2, 2, group.size)) for group in groups]
    for group, factors in zip(groups, scales, strict=True):
        rescale(model, group, factors)
    again = calibrate(model, needs, dataset(model, X), quiet)
    for group, factors in zip(groups, scales, strict=True):
        for name, indices in group.consumers.items():
            own = factors_of(indices, factors)
            channels, moments = stats.channels[name].rescaled(own), stats.moments[name]
            np.testing.assert_allclose(channels.absmax, again.channels[name].absmax, rtol=1e-4)
            np.testing.assert_allclose(channels.mean_square, again.channels[name].mean_square, rtol=1e-4)
            expected = again.moments[name].hessian
            found = moments.rescaled(input_factors(model.layers()[name], own)).hessian
            assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_excluded_layers_take_a_scale_but_are_not_judged() -> None:
    proto = with_outliers(50.0, 0)
    result = converted(proto, Exclude(("silu.conv", "block.conv1")), SmoothQuant(), *W8)
    report = result.passes[3]
    assert report.skipped["silu.conv"] == "excluded by the recipe"
    assert report.changed["block.conv1"].what == "rescaled together with the layers beside it"
    assert report.changed["block.conv2"].what.startswith("inputs smoothed with alpha")
    assert not {"silu.conv", "block.conv1"} & set(report.grids)


def test_scales_cannot_be_moved_after_the_ranges_are_chosen() -> None:
    with pytest.raises(RecipeError, match=r"smoothquant .* cannot come after activation_ranges"):
        converted(resnet(), ActivationRanges(), SmoothQuant(), Rtn(bits=8))


@pytest.mark.parametrize("step", [SmoothQuant(), Awq()], ids=lambda step: step.name)
def test_calibration_data_are_asked_for(step: SmoothQuant | Awq) -> None:
    with pytest.raises(UsageError, match="needs calibration data"):
        convert(resnet(), recipe=Recipe("mine", "", (*PREPARE, step, Rtn(bits=8))))
    convert(resnet(), recipe=Recipe("mine", "", (*PREPARE, Equalize(), Rtn(bits=8))))


@pytest.mark.parametrize("alpha", ["search", 0.5])
def test_recipes_with_them_survive_toml(alpha: Literal["search"] | float) -> None:
    steps = (SmoothQuant(alpha=alpha), Awq(factors=(1.0, 2.5), block_size=32), Equalize(iterations=3), Rtn())
    recipe = Recipe("mine", "", (*PREPARE, *steps))
    assert parse_recipe(dump_recipe(recipe), "f.toml") == recipe
