"""GPFQ and Qronos on layers: what they share with GPTQ, what they refuse, and networks converted with them."""

import dataclasses
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from converter import Recipe, convert
from converter.recipes.toml import dump_recipe, parse_recipe
from passes.activations.activation_ranges import ActivationRanges
from passes.base import Problem
from passes.errors import QuantizationError, RecipeError
from passes.graph.normalise.normalise import Normalise
from passes.ir.model import Model
from passes.numerics.error import sqnr_db
from passes.numerics.grid import Floats
from passes.weights.gpfq import Gpfq
from passes.weights.gptq import Gptq
from passes.weights.one_sweep import OneSweep
from passes.weights.qronos import Qronos
from passes.weights.rtn import Rtn
from tests.support.graphs import array
from tests.support.integer_rules import RULES
from tests.support.networks import images, resnet, run
from tests.support.solved_layer import LAYERS, moments_of, one_layer, problem_of, smooth

X, UNSEEN = images(48, 3, 12, 12), images(48, 3, 12, 12, seed=9)
solvers = pytest.mark.parametrize("solver", [Gpfq, Qronos])
PLAIN_GPTQ = Gptq(beam=1, refine=0, few_rows=False)


def problem(case: str, seed: int = 0, both: bool = True, shrunk: float = 0.9) -> Problem:
    """Return a layer and the moments of its inputs: of both networks, or of the quantized one alone."""
    float_rows = smooth(*LAYERS[case][4])
    quantized = (shrunk * float_rows + 0.1 + 0.1 * array(*float_rows.shape, seed=6)).astype(np.float32)
    model = Model(gs.import_onnx(one_layer(LAYERS[case], bias=True, seed=seed)), RULES)
    return problem_of(model, moments_of(model.layers()["layer"], quantized, float_rows if both else None))


def error(problem: Problem, codes: Floats) -> float:
    """Return the mean square of the output error that no bias takes up, from the moments of both networks."""
    assert problem.moments is not None
    moments = problem.moments.centered()
    assert moments.cross is not None
    difference = problem.weight - codes
    both = difference @ moments.hessian
    correction = 2 * problem.weight @ moments.cross
    return float(((both + correction) * difference).sum())  # up to a constant


@solvers
@pytest.mark.parametrize("case", LAYERS)
def test_layers_are_better_than_by_rounding_to_nearest(case: str, solver: type[OneSweep]) -> None:
    """The mean of four weights at 3 bits, with inputs from quantized predecessors."""
    own, nearest = [], []
    for seed in range(4):
        each = problem(case, seed)
        solution, plain = solver().solve(each), Rtn().solve(each)
        assert solution.note == ""
        assert solution.before_db is not None
        assert solution.after_db is not None
        assert solution.after_db > solution.before_db
        own.append(error(each, solution.grid.values(solution.codes)))
        nearest.append(error(each, plain.grid.values(plain.codes)))
    assert sum(own) < sum(nearest)


@pytest.mark.parametrize("case", ["conv", "conv_strided_group", "depthwise", "gemm"])
def test_qronos_is_gptq_where_both_networks_have_the_same_inputs(case: str) -> None:
    each = problem(case, both=False)
    own, other = Qronos().solve(each), PLAIN_GPTQ.solve(each)
    np.testing.assert_array_equal(own.codes, other.codes)
    np.testing.assert_array_equal(own.grid.scale, other.grid.scale)
    assert own.bias is not None
    assert other.bias is not None
    np.testing.assert_array_equal(own.bias, other.bias)
    assert (own.before_db, own.after_db) == (other.before_db, other.after_db)


@pytest.mark.parametrize("case", ["conv", "gemm"])
def test_without_an_asymmetric_target_the_float_networks_inputs_do_not_matter(case: str) -> None:
    for solver in (Gpfq, Qronos):
        blind = solver(asymmetric_target=False)
        seen, alone = problem(case), problem(case, both=False)
        np.testing.assert_array_equal(blind.solve(seen).codes, blind.solve(alone).codes)
        assert not np.array_equal(solver().solve(seen).codes, blind.solve(seen).codes)
    expected = dataclasses.replace(PLAIN_GPTQ, asymmetric_target=False).solve(problem(case))
    np.testing.assert_array_equal(Qronos(asymmetric_target=False).solve(problem(case)).codes, expected.codes)


@solvers
def test_refinement_lowers_the_error(solver: type[OneSweep]) -> None:
    each = problem("conv")
    rough, fine = solver().solve(each), solver(refine=3).solve(each)
    assert rough.after_db is not None
    assert fine.after_db is not None
    assert fine.after_db > rough.after_db + 0.2


@solvers
def test_order_and_scales_are_those_of_gptq(solver: type[OneSweep]) -> None:
    """With the same inputs in both networks, GPTQ has the same target, and so the same grids."""
    each = problem("conv", both=False)
    default = solver().solve(each)
    changes: list[dict[str, Any]] = [{"act_order": not solver().act_order}, {"scale": "absmax"}, {"damping": 5.0}]
    for fields in changes:
        own, other = (dataclasses.replace(step, **fields).solve(each) for step in (solver(), PLAIN_GPTQ))
        np.testing.assert_array_equal(own.grid.scale, other.grid.scale)
        assert not np.array_equal(own.codes, default.codes)


@solvers
@pytest.mark.parametrize("fields", [{}, {"two_level": True, "block_size": 8}, {"symmetric": False}], ids=str)
def test_a_network_converted_with_it(fields: dict[str, Any], solver: type[OneSweep]) -> None:
    ranges = () if "symmetric" in fields else (ActivationRanges(),)
    recipes = [Recipe("mine", "", (Normalise(), *ranges, each(bits=3, **fields))) for each in (Rtn, solver)]
    nearest, own = (convert(resnet(), X, recipe=recipe) for recipe in recipes)
    reference = run(resnet(), UNSEEN)[0]
    assert sqnr_db(reference, run(own.model, UNSEEN)[0]) > sqnr_db(reference, run(nearest.model, UNSEEN)[0]) + 2
    assert {layer.bits for layer in own.layers} == {3}


@solvers
def test_recipes_with_it_and_refusals(solver: type[OneSweep]) -> None:
    name = solver.name
    recipe = Recipe("mine", "", (Normalise(), solver(bits=3, act_order=False, refine=1)))
    assert parse_recipe(dump_recipe(recipe), "f.toml") == recipe
    for line, message in (
        ("beam = 8", f"beam of {name} can only be 1, not 8; gptq has a beam"),
        ("few_rows = true", f"few_rows of {name} can only be false; gptq chooses its damping on held-out samples"),
        ("damping = 0", "damping must be above 0 and at most 10, not 0"),
        ("two_level = true", "two_level needs a block_size, such as block_size = 8"),
    ):
        with pytest.raises(RecipeError, match=message):
            parse_recipe(f'[[passes]]\npass = "{name}"\n{line}\n', "f.toml")


@solvers
def test_without_data_or_with_a_bad_hessian_it_says_what_to_do(solver: type[OneSweep]) -> None:
    each = problem("gemm")
    with pytest.raises(QuantizationError, match=f"layer: {solver.title} needs calibration data; use `calibration=`"):
        solver().solve(dataclasses.replace(each, moments=None))
    assert each.moments is not None
    bad = dataclasses.replace(each.moments, hessian=each.moments.hessian * np.float32(np.nan))
    with pytest.raises(QuantizationError, match=r"cannot be factorised .* larger damping than 0\.05"):
        solver().solve(dataclasses.replace(each, moments=bad))
