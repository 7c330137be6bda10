"""Layers with float activations: their weights are codes, their inputs and outputs are not rounded."""

from pathlib import Path

import numpy as np
import pytest

from converter import convert
from converter.inspection.inspect import inspect
from converter.recipes.recipe import Recipe
from converter.recipes.toml import dump_recipe, parse_recipe
from passes.activations.activation_ranges import ActivationRanges
from passes.activations.float_activations import FloatActivations
from passes.errors import QuantizationError
from passes.graph.exclude import Exclude
from passes.graph.fold_batchnorm import FoldBatchnorm
from passes.graph.normalise.normalise import Normalise
from passes.weights.gptq import Gptq
from tests.support.models import SIDE, small_cnn
from tests.support.networks import optimized

IMAGES = np.random.default_rng(3).standard_normal((8, 3, SIDE, SIDE), dtype=np.float32)


def recipe(*layers: str) -> Recipe:
    steps = (Normalise(), FoldBatchnorm(), FloatActivations(layers, "as asked"), ActivationRanges(), Gptq(bits=4))
    return Recipe("mixed", "", steps)


def test_weights_are_codes_and_activations_floats(tmp_path: Path) -> None:
    result = convert(small_cnn(transpose=False), IMAGES, recipe=recipe("deep"))
    result.save(tmp_path / "mixed.onnx")
    by_name = {layer.name: layer for layer in inspect(tmp_path / "mixed.onnx").layers}
    assert (by_name["deep"].weight_bits, by_name["deep"].storage, by_name["deep"].fused) == (4, "int4 rescale", False)
    assert by_name["deep"].reason == "as asked"
    assert by_name["stem"].fused
    assert by_name["fc"].fused
    reported = {layer.name: layer for layer in result.layers}
    assert (reported["deep"].bits, reported["deep"].activation_bits) == (4, 32)
    assert "as asked" in reported["deep"].note
    assert reported["stem"].activation_bits == 8


def test_an_excluded_layer_between_integers_runs_in_float(tmp_path: Path) -> None:
    """Between DequantizeLinear and QuantizeLinear, onnxruntime would round its weight to 8 bits with one scale."""
    steps = (Normalise(), FoldBatchnorm(), Exclude(("deep",)), ActivationRanges(), Gptq(bits=4))
    kinds = optimized(convert(small_cnn(transpose=False), IMAGES, recipe=Recipe("part", "", steps)).model, tmp_path)
    assert (kinds["QLinearConv"], kinds["Conv"]) == (1, 1)


def test_unknown_layer_is_refused_with_the_nearest() -> None:
    with pytest.raises(QuantizationError, match=r"no layer is named 'deeep'; did you mean 'deep'\?"):
        convert(small_cnn(transpose=False), IMAGES, recipe=recipe("deeep"))


def test_recipe_round_trip() -> None:
    wanted = recipe("deep", "fc")
    assert parse_recipe(dump_recipe(wanted), "test").passes == wanted.passes
