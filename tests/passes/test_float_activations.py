"""Layers with float activations: their weights are codes, their inputs and outputs are not rounded."""

import numpy as np
import pytest

from converter import convert
from converter.inspect import inspect_model
from converter.recipe import Recipe, dump_recipe, parse_recipe
from passes.activation_ranges import ActivationRanges
from passes.errors import QuantizationError
from passes.float_activations import FloatActivations
from passes.fold_batchnorm import FoldBatchnorm
from passes.gptq import Gptq
from passes.normalise import Normalise
from tests.models_zoo import SIDE, small_cnn

IMAGES = np.random.default_rng(3).standard_normal((8, 3, SIDE, SIDE), dtype=np.float32)


def recipe(*layers: str) -> Recipe:
    steps = (Normalise(), FoldBatchnorm(), FloatActivations(layers, "as asked"), ActivationRanges(), Gptq(bits=4))
    return Recipe("mixed", "", steps)


def test_weights_are_codes_and_activations_floats(tmp_path):
    result = convert(small_cnn(transpose=False), IMAGES, recipe=recipe("deep"))
    result.save(tmp_path / "mixed.onnx")
    found = {layer.name: layer for layer in inspect_model(tmp_path / "mixed.onnx").layers}
    assert (found["deep"].weight_bits, found["deep"].storage, found["deep"].fused) == (4, "int4 rescale", False)
    assert found["deep"].reason == "as asked"
    assert found["stem"].fused
    assert found["fc"].fused
    reported = {layer.name: layer for layer in result.layers}
    assert (reported["deep"].bits, reported["deep"].activation_bits) == (4, 32)
    assert "as asked" in reported["deep"].note
    assert reported["stem"].activation_bits == 8


def test_output_of_the_layer_is_not_rounded():
    plain, mixed = (convert(small_cnn(transpose=False), IMAGES, recipe=recipe(*names)) for names in ((), ("deep",)))
    rounded = [
        {node.input[0] for node in result.model.graph.node if node.op_type == "QuantizeLinear"}
        for result in (plain, mixed)
    ]
    assert "deep" in rounded[0]
    assert "deep" not in rounded[1]


def test_unknown_layer_is_refused_with_the_nearest():
    with pytest.raises(QuantizationError, match=r"no layer is named 'deeep'; did you mean 'deep'\?"):
        convert(small_cnn(transpose=False), IMAGES, recipe=recipe("deeep"))


def test_recipe_round_trip():
    wanted = recipe("deep", "fc")
    assert parse_recipe(dump_recipe(wanted), "test").passes == wanted.passes
