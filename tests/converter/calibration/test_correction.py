"""Corrections on whole networks: the written file has the float means and spreads, and unchanged codes."""

import numpy as np
import onnx
import pytest

from converter import Recipe, Result, convert
from converter.calibration.correction import correct_layers, float_network
from converter.pipeline.prepare import JUDGING
from converter.qdq.floats import float_model
from converter.recipes.toml import dump_recipe, parse_recipe
from passes.activations.activation_ranges import ActivationRanges
from passes.base import CorrectionPass, LayerPass, Pass
from passes.errors import QuantizationError, UsageError
from passes.graph.check import check
from passes.graph.exclude import Exclude
from passes.graph.normalise.normalise import Normalise
from passes.ir.model import Model
from passes.weights.batchnorm_reestimation import ReestimateBatchnorm
from passes.weights.bias_correction import BiasCorrection
from passes.weights.gptq import Gptq
from passes.weights.rtn import Rtn
from tests.support.networks import (
    dataset,
    decibels,
    images,
    prepared,
    quantize,
    quiet,
    relative_error,
    resnet,
    run,
    set_ranges,
    shape_branch,
    single,
)

X, UNSEEN = images(64, 3, 12, 12), images(64, 3, 12, 12, seed=9)
FITTED = JUDGING.rows(len(X), 512, 0)[0]  # the others of 64 samples judge
CORRECTIONS = [BiasCorrection(), ReestimateBatchnorm()]
IDS = [step.name for step in CORRECTIONS]


def converted(*passes: Pass, proto: onnx.ModelProto | None = None) -> Result:
    return convert(proto or resnet(), X, recipe=Recipe("mine", "", (Normalise(), *passes)))


def corrected(step: CorrectionPass, layer_pass: LayerPass, *, ranges: bool = True) -> tuple[Model, Model]:
    """The network after the layer pass, and after the correction too."""
    before, after = (quantize(resnet(), layer_pass, X, ranges=ranges) for _ in range(2))
    correct_layers(after, step, dataset(after, X), quiet)
    check(after, step.name)
    return before, after


@pytest.mark.parametrize("step", CORRECTIONS, ids=IDS)
@pytest.mark.parametrize("bits", [3, 4])
def test_a_correction_beats_round_to_nearest(step: CorrectionPass, bits: int) -> None:
    plain = decibels(converted(ActivationRanges(), Rtn(bits=bits)), UNSEEN)
    assert decibels(converted(ActivationRanges(), Rtn(bits=bits), step), UNSEEN) > plain + 0.5


@pytest.mark.parametrize("step", CORRECTIONS, ids=IDS)
def test_no_code_moves(step: CorrectionPass) -> None:
    before, after = corrected(step, Rtn(bits=3))
    assert before.quantized.keys() == after.quantized.keys()
    changed_scales = 0
    for name, old in before.quantized.items():
        new = after.quantized[name]
        np.testing.assert_array_equal(new.codes, old.codes)
        np.testing.assert_array_equal(new.grid.zero_point, old.grid.zero_point)
        changed_scales += not np.array_equal(new.grid.scale, old.grid.scale)
    assert changed_scales == (0 if isinstance(step, BiasCorrection) else len(before.quantized))


@pytest.mark.parametrize("layer_pass", [Rtn(bits=3), Rtn(bits=3, symmetric=False)], ids=["symmetric", "affine"])
def test_the_mean_of_every_channel_is_restored(layer_pass: LayerPass) -> None:
    result = converted(layer_pass, BiasCorrection())
    float_output, other = run(result.reference, X[FITTED])[0], run(result.model, X[FITTED])[0]
    plain = run(converted(layer_pass).model, X[FITTED])[0]
    # all layers but the last are calibrated on a sample of positions
    assert np.abs(other.mean(axis=0) - float_output.mean(axis=0)).max() < 1e-3 * np.abs(float_output).max()
    assert np.abs(plain.mean(axis=0) - float_output.mean(axis=0)).max() > 1e-2 * np.abs(float_output).max()


def test_the_spread_of_every_channel_is_restored() -> None:
    result = converted(Rtn(bits=3), ReestimateBatchnorm())
    float_output, other = run(result.reference, X[FITTED])[0], run(result.model, X[FITTED])[0]
    np.testing.assert_allclose(other.std(axis=0), float_output.std(axis=0), rtol=1e-3)
    np.testing.assert_allclose(other.mean(axis=0), float_output.mean(axis=0), atol=1e-3 * np.abs(float_output).max())


@pytest.mark.parametrize("step", CORRECTIONS, ids=IDS)
def test_blocks_keep_their_proportions(step: CorrectionPass) -> None:
    before, after = corrected(step, Rtn(bits=3, block_size=16), ranges=False)
    for name, old in before.quantized.items():
        ratio = after.quantized[name].grid.scale / old.grid.scale
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :, :1], ratio.shape), rtol=1e-6)


@pytest.mark.parametrize("step", CORRECTIONS, ids=IDS)
def test_every_layer_is_reported_with_the_error_of_its_output(step: CorrectionPass) -> None:
    result = converted(Exclude(("silu.conv",)), ActivationRanges(), Rtn(bits=3), step)
    report = result.passes[-1]
    assert report.skipped == {"silu.conv": "excluded by the recipe"}
    assert set(report.changed) | set(report.skipped) == {layer.name for layer in result.layers}
    for change in report.changed.values():
        assert change.what.startswith("3 bits per channel, ")
        assert change.before_db is not None
        assert change.after_db is not None
        if isinstance(step, BiasCorrection):
            assert change.after_db >= change.before_db - 1e-9
    assert result.layers[0].note == report.changed["stem"].what


def test_a_layer_without_a_bias_gets_one() -> None:
    proto = single("gemm_no_bias")
    data = images(64, 21)
    recipe = Recipe("mine", "", (Normalise(), Rtn(bits=2), BiasCorrection()))
    result = convert(proto, data, recipe=recipe)
    float_output, other = run(result.reference, data[FITTED])[0], run(result.model, data[FITTED])[0]
    np.testing.assert_allclose(other.mean(axis=0), float_output.mean(axis=0), atol=1e-5 * np.abs(float_output).max())


def test_a_matmul_has_no_bias_to_correct() -> None:
    data = images(16, 3, 8, 8)
    model = quantize(shape_branch(), Rtn(bits=3), data)
    report = correct_layers(model, BiasCorrection(), dataset(model, data), quiet)
    assert report.skipped == {"head": "a MatMul has no bias"}
    assert set(report.changed) == {"first", "second"}


def test_the_float_network_is_the_original_network() -> None:
    model = quantize(resnet(), Gptq(bits=2), X, ranges=True)
    assert relative_error(run(float_model(model.graph), UNSEEN)[0], run(resnet(), UNSEEN)[0]) > 0.05
    np.testing.assert_array_equal(
        run(float_model(float_network(model).graph), UNSEEN)[0], run(float_model(prepared(resnet()).graph), UNSEEN)[0]
    )


def test_biases_keep_their_headroom() -> None:
    """A scale does not become so small that the int32 bias overflows. The mean is restored nevertheless."""
    proto = resnet()
    for tensor in proto.graph.initializer:
        if tensor.name == "fc.bias":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(7, 3e6, np.float32), tensor.name))
    result = converted(ActivationRanges(), Rtn(bits=8), ReestimateBatchnorm(), proto=proto)
    float_output, other = run(result.reference, X[FITTED])[0], run(result.model, X[FITTED])[0]
    assert relative_error(other, float_output) < 1e-5


def test_a_correction_needs_quantized_layers_and_data() -> None:
    model = prepared(resnet())
    set_ranges(model, X)
    with pytest.raises(QuantizationError, match="bias_correction: no layer is quantized; put the pass after rtn, gptq"):
        correct_layers(model, BiasCorrection(), dataset(model, X), quiet)
    done = quantize(resnet(), Rtn(bits=4), X)
    with pytest.raises(QuantizationError, match="bias_correction needs calibration data; use `calibration=`"):
        correct_layers(done, BiasCorrection(), None, quiet)
    with pytest.raises(UsageError, match="needs calibration data"):
        convert(resnet(), recipe=Recipe("mine", "", (Normalise(), Rtn(bits=4), BiasCorrection())))


@pytest.mark.parametrize("step", CORRECTIONS, ids=IDS)
def test_recipes_with_corrections_survive_toml(step: CorrectionPass) -> None:
    recipe = Recipe("mine", "", (Normalise(), Rtn(bits=4), step))
    assert parse_recipe(dump_recipe(recipe), "f.toml") == recipe
