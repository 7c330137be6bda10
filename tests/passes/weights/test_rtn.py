"""Round-to-nearest: nearest points of the chosen grid, measured errors, and bits of each layer."""

from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from passes.base import Problem
from passes.errors import QuantizationError
from passes.ir.linear import Linear
from passes.numerics.error import sqnr_db
from passes.numerics.grid import Floats
from passes.numerics.weight_scale_search import absmax_grid, search_grid
from passes.weights.rtn import Rtn

Scale = Literal["mse", "absmax"]


def problem(bits: int = 4, block_size: int | None = None, min_scale: Floats | None = None, seed: int = 0) -> Problem:
    """Make a Conv of two groups with five outputs each and heavy-tailed weights."""
    rng = np.random.default_rng(seed)
    weight = (rng.standard_t(4, (2, 5, 27)) * rng.lognormal(0, 1, (2, 5, 1))).astype(np.float32)
    layer = Linear("conv", "Conv", "x", "y", "w", (10, 3, 3, 3), "b", groups=2)
    return Problem(layer, weight, rng.normal(size=(2, 5)).astype(np.float32), bits, block_size, min_scale, None)


@pytest.mark.parametrize("scale", ["mse", "absmax"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("block_size", [None, 9])
@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_are_the_nearest_of_the_grid(scale: Scale, bits: int, block_size: int | None, symmetric: bool) -> None:
    given = problem(bits, block_size)
    solution = Rtn(scale=scale, symmetric=symmetric).solve(given)
    assert solution.codes.dtype == np.int8
    assert (solution.grid.bits, solution.grid.block_size) == (bits, block_size)
    assert solution.grid.symmetric == symmetric
    np.testing.assert_array_equal(solution.codes, solution.grid.codes(given.weight))
    plain = absmax_grid(given.weight, bits, block_size=block_size, symmetric=symmetric)
    if scale == "absmax":
        np.testing.assert_array_equal(solution.grid.scale, plain.scale)
        assert solution.after_db == solution.before_db
    assert solution.before_db == sqnr_db(given.weight, plain.values(plain.codes(given.weight)))
    assert solution.after_db == sqnr_db(given.weight, solution.grid.values(solution.codes))
    assert solution.bias is given.bias


@pytest.mark.parametrize(("bits", "gain"), [(2, 2.0), (3, 1.0), (4, 0.5)])
def test_the_search_gains_by_clipping(bits: int, gain: float) -> None:
    gains = []
    for seed in range(5):
        solution = Rtn().solve(problem(bits, seed=seed))
        assert solution.after_db is not None
        assert solution.before_db is not None
        gains.append(solution.after_db - solution.before_db)
    assert min(gains) > 0
    assert np.mean(gains) > gain


def test_the_search_weighs_all_inputs_equally() -> None:
    given = problem(3)
    expected = search_grid(given.weight, 3, np.ones((2, 27), np.float32))
    np.testing.assert_array_equal(Rtn().solve(given).grid.scale, expected.scale)


def test_one_more_bit_is_about_six_decibels() -> None:
    errors = [Rtn().solve(problem(bits)).after_db or 0.0 for bits in (5, 6, 7, 8)]
    steps = np.diff(errors)
    assert np.all((steps > 4.5) & (steps < 7))  # below 6.02 if less is clipped


@pytest.mark.parametrize("scale", ["mse", "absmax"])
def test_the_smallest_scale_is_respected(scale: Scale) -> None:
    min_scale = np.linspace(1e-3, 2.0, 10, dtype=np.float32).reshape(2, 5)
    solution = Rtn(scale=scale).solve(problem(8, min_scale=min_scale))
    assert np.all(solution.grid.scale[:, :, 0] >= min_scale)
    np.testing.assert_allclose(solution.grid.scale[1, :, 0], min_scale[1], rtol=1e-6)  # it binds


def test_it_needs_no_data() -> None:
    assert not Rtn.wants_moments
    assert not Rtn().sequential
    assert Rtn().bits == 8


GRAPH = gs.Graph()
LAYERS = {
    name: Linear(name, "Gemm", "x", "y", f"{name}.w", (4, 3), None) for name in ("first", "second", "third", "last")
}


def test_bits_of_every_layer() -> None:
    assert Rtn(bits=4).bits_of(LAYERS, GRAPH) == dict.fromkeys(LAYERS, 4)
    mixed = Rtn(bits=4, first_last_bits=8, layer_bits={"second": 2, "last": 6})
    assert mixed.bits_of(LAYERS, GRAPH) == {"first": 8, "second": 2, "third": 4, "last": 6}
    assert Rtn(bits=4, first_last_bits=8).bits_of({}, GRAPH) == {}


def test_layers_that_share_a_weight_have_the_same_bits() -> None:
    """The most that one of them is named with. Without a name, the most that one of them has."""
    shared = {name: Linear(name, "Gemm", "x", "y", "w", (4, 3), None) for name in ("first", "second", "third")}
    assert Rtn(bits=4, first_last_bits=8).bits_of(shared, GRAPH) == dict.fromkeys(shared, 8)
    assert Rtn(bits=4, layer_bits={"second": 2, "third": 3}).bits_of(shared, GRAPH) == dict.fromkeys(shared, 3)


def test_bits_of_a_layer_that_does_not_exist() -> None:
    with pytest.raises(QuantizationError, match="layer_bits: no layer is named 'fifth'; did you mean 'first'"):
        Rtn(layer_bits={"fifth": 4}).bits_of(LAYERS, GRAPH)


@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 16])
def test_bits_outside_2_to_8_are_refused(bits: int) -> None:
    message = f"weight bits must be 2 to 8, not {bits}"
    with pytest.raises(ValueError, match=message):
        Rtn(bits=bits)
    with pytest.raises(ValueError, match=message):
        Rtn(first_last_bits=bits)
    with pytest.raises(ValueError, match=message):
        Rtn(layer_bits={"first": bits})


@pytest.mark.parametrize("block_size", [0, -32])
def test_a_block_size_below_one_is_refused(block_size: int) -> None:
    with pytest.raises(ValueError, match=f"block_size must be at least 1, not {block_size}"):
        Rtn(block_size=block_size)


def test_a_negative_number_of_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="fewest_blocks must be 0 or more, not -1"):
        Rtn(block_size=8, two_level=True, fewest_blocks=-1)
