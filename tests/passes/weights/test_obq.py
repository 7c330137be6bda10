"""OBQ on layers: small layers use OBQ, large layers use GPTQ with a note, and the written file is right."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from converter import Recipe, convert
from converter.recipes.toml import dump_recipe, parse_recipe
from passes.activations.activation_ranges import ActivationRanges
from passes.graph.normalise.normalise import Normalise
from passes.ir.model import Model
from passes.numerics.error import sqnr_db
from passes.weights.gptq import Gptq
from passes.weights.obq import Obq
from passes.weights.rtn import Rtn
from tests.support.integer_rules import RULES
from tests.support.networks import images, resnet, run
from tests.support.solved_layer import LAYERS, moments_of, one_layer, problem_of, smooth

X, UNSEEN = images(48, 3, 12, 12), images(48, 3, 12, 12, seed=9)


@pytest.mark.parametrize("refine", [0, 2])
@pytest.mark.parametrize("case", ["conv", "conv_strided_group", "depthwise", "gemm"])
def test_small_layers_are_solved_by_obq(case: str, refine: int) -> None:
    """The error of OBQ is GPTQ's within 2 dB, as a mean of four weights. In one weight a tie can be worth as much."""
    gains = []
    for seed in range(10, 14):
        model = Model(gs.import_onnx(one_layer(LAYERS[case], bias=True, seed=seed)), RULES)
        problem = problem_of(model, moments_of(model.layers()["layer"], smooth(*LAYERS[case][4])))
        solution, other, plain = (step.solve(problem) for step in (Obq(refine=refine), Gptq(refine=refine), Rtn()))
        assert solution.note == ""
        assert solution.before_db == other.before_db
        assert solution.after_db is not None
        assert other.after_db is not None
        assert solution.before_db is not None
        assert solution.after_db > solution.before_db + 1
        gains.append(solution.after_db - other.after_db)
        assert not np.array_equal(solution.codes, plain.codes)
    assert np.mean(gains) > -2  # -0.1 to -0.7 measured
    assert any(gains), "every solution of OBQ is GPTQ's"


def test_large_layers_use_gptq_and_a_note_says_so() -> None:
    model = Model(gs.import_onnx(one_layer(LAYERS["conv"], bias=True)), RULES)
    problem = problem_of(model, moments_of(model.layers()["layer"], smooth(*LAYERS["conv"][4])))
    solution, other = Obq(largest_inputs=26).solve(problem), Gptq().solve(problem)
    assert solution.note == "by GPTQ: 27 inputs are more than largest_inputs 26"
    np.testing.assert_array_equal(solution.codes, other.codes)
    assert Obq(largest_inputs=27).solve(problem).note == ""


def test_a_network_converted_with_it() -> None:
    recipes = [
        Recipe("mine", "", (Normalise(), ActivationRanges(), step))
        for step in (Rtn(bits=3), Obq(bits=3, largest_inputs=30))
    ]
    nearest, greedy = (convert(resnet(), X, recipe=recipe) for recipe in recipes)
    reference = run(resnet(), UNSEEN)[0]
    assert sqnr_db(reference, run(greedy.model, UNSEEN)[0]) > sqnr_db(reference, run(nearest.model, UNSEEN)[0]) + 2
    notes = {layer.name: layer.note for layer in greedy.layers}
    assert notes["stem"] == "3 bits per channel"
    assert notes["block.conv1"] == "3 bits per channel, by GPTQ: 72 inputs are more than largest_inputs 30"


def test_recipes_with_it_and_refusals() -> None:
    recipe = Recipe("mine", "", (Normalise(), Obq(bits=3, largest_inputs=64)))
    assert parse_recipe(dump_recipe(recipe), "f.toml") == recipe
    with pytest.raises(ValueError, match="largest_inputs must be at least 1, not 0"):
        Obq(largest_inputs=0)
    with pytest.raises(ValueError, match="damping must be above 0"):
        Obq(damping=0)
