"""Two-level scales: products fit the kernels, values are exact, and the search is close to float block scales."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.numerics.error import sqnr_db
from passes.numerics.gptq import damped, gptq, output_error
from passes.numerics.grid import MULTIPLES, Grid, code_range
from passes.numerics.moments import MomentsAccumulator
from passes.numerics.obq import obq
from passes.numerics.two_level import equal_block, two_level_grid
from passes.numerics.weight_grid import GridForm
from passes.numerics.weight_scale_search import search_grid
from tests.support.arrays import heavy_tailed, ones_for


@settings(max_examples=60)
@given(
    groups=st.integers(1, 2),
    outputs=st.integers(1, 4),
    blocks=st.integers(1, 5),
    block_size=st.integers(2, 8),
    bits=st.integers(2, 4),
    seed=st.integers(0, 10_000),
)
def test_products_fit_and_give_the_values(
    groups: int, outputs: int, blocks: int, block_size: int, bits: int, seed: int
) -> None:
    weight = heavy_tailed(groups, outputs, blocks * block_size, seed)
    grid = two_level_grid(weight, bits, ones_for(weight), block_size=block_size)
    codes = grid.codes(weight)
    assert grid.multiples is not None
    assert grid.multiples.shape == (groups, outputs, blocks)
    assert grid.multiples.all()
    assert MULTIPLES[0] <= grid.multiples.min() <= grid.multiples.max() <= MULTIPLES[1]
    assert code_range(bits)[0] <= codes.min() <= codes.max() <= code_range(bits)[1]
    integers = grid.integers(codes)
    assert np.abs(integers.astype(np.int32)).max() <= 64  # the sum of two products with 255 fits into 16 bits
    np.testing.assert_array_equal(integers, codes.astype(np.int32) * np.repeat(grid.multiples, block_size, axis=2))
    plain = Grid(8, grid.scale, grid.zero_point)
    np.testing.assert_array_equal(grid.values(codes), plain.values(integers))


@pytest.mark.parametrize(("bits", "least"), [(2, 3.5), (3, 2.5), (4, 2.0)])
def test_block_scales_gain_more_than_they_cost(bits: int, least: float) -> None:
    """On a uniform grid, a quarter of a bit gains 1.5 dB."""
    weight = heavy_tailed(1, 64, 288)
    channel = search_grid(weight, bits, ones_for(weight))
    grid = two_level_grid(weight, bits, ones_for(weight), block_size=16)
    before, after = (sqnr_db(weight, each.values(each.codes(weight))) for each in (channel, grid))
    assert after > before + least
    blocks = search_grid(weight, bits, ones_for(weight), block_size=16)  # a float per block: 2 bits per weight
    assert after > sqnr_db(weight, blocks.values(blocks.codes(weight))) - 0.6


def test_a_multiple_can_flip_the_sign_of_a_block() -> None:
    weight = np.array([[[-2, -1, 0, 1, 2, 1, 0, -1]]], np.float32)
    grid = two_level_grid(weight, 2, ones_for(weight), block_size=4)
    assert grid.multiples is not None
    assert np.sign(grid.multiples).tolist() == [[[1, -1]]]
    np.testing.assert_allclose(grid.values(grid.codes(weight)), weight, rtol=0.05)


def test_nothing_but_zeros_is_on_a_grid() -> None:
    weight = np.zeros((1, 2, 8), np.float32)
    weight[0, 1, :4] = 1
    grid = two_level_grid(weight, 4, ones_for(weight), block_size=4)
    values = grid.values(grid.codes(weight))
    assert (values[weight == 0] == 0).all()
    np.testing.assert_allclose(values, weight, rtol=0.1)


def test_the_smallest_scale_of_a_channel_is_respected() -> None:
    weight = heavy_tailed(1, 4, 32)
    min_scale = np.full((1, 4), 0.25, np.float32)
    assert (
        two_level_grid(weight, 4, ones_for(weight), block_size=8, min_scale=min_scale).scale[:, :, 0] >= min_scale
    ).all()


def test_importance_decides() -> None:
    weight, importance = heavy_tailed(1, 8, 64), np.ones((1, 64), np.float32)
    importance[:, ::8] = 1e4
    plain, weighted = (two_level_grid(weight, 2, each, block_size=16) for each in (ones_for(weight), importance))
    errors = [
        float((np.square(grid.values(grid.codes(weight)) - weight) * importance[:, None]).sum())
        for grid in (plain, weighted)
    ]
    assert errors[1] < 0.5 * errors[0]


def test_the_sweep_takes_multiples() -> None:
    rng = np.random.default_rng(0)
    weight = heavy_tailed(1, 16, 96)
    rows = (rng.standard_normal((1, 2000, 96)) @ rng.standard_normal((96, 96))).astype(np.float32)
    moments = MomentsAccumulator(1, 96, cross=False)
    moments.update(rows)
    collected = moments.moments()
    errors = []
    for form in (GridForm(2), GridForm(2, 16, two_level=True)):
        result = gptq(weight, collected, form, damping=0.05, beam=4, rounds=2)
        errors.append(output_error(weight, result.grid.values(result.codes), collected.hessian))
    assert errors[1] < 0.6 * errors[0]


def test_obq_takes_multiples() -> None:
    """Codes are in their range and no worse than GPTQ's. A negative multiple must not become a negative step."""
    rng = np.random.default_rng(1)
    weight = heavy_tailed(1, 8, 48, 3)
    rows = (rng.standard_normal((1, 2000, 48)) @ rng.standard_normal((48, 48))).astype(np.float32)
    moments = MomentsAccumulator(1, 48, cross=False)
    moments.update(rows)
    collected = moments.moments()
    swept = gptq(weight, collected, GridForm(3, 16, two_level=True), damping=0.01)
    codes = obq(weight, damped(collected.hessian, 0.01), swept.grid)
    assert code_range(3)[0] <= codes.min() <= codes.max() <= code_range(3)[1]
    errors = [output_error(weight, swept.grid.values(each), collected.hessian) for each in (swept.codes, codes)]
    assert errors[1] < 1.3 * errors[0]


def test_more_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="up to 4 bits, not 5"):
        two_level_grid(heavy_tailed(1, 1, 8), 5, np.ones((1, 8), np.float32), block_size=4)


@pytest.mark.parametrize(
    ("channels", "k", "wanted", "fewest", "size"),
    [
        (16, 144, 16, 0, 16),
        (16, 27, 16, 0, 9),
        (64, 147, 16, 0, 21),
        (8, 37, 16, 0, None),
        (8, 16, 8, 0, 8),
        (512, 9, 16, 0, 3),
        (64, 25, 16, 0, 5),
        (512, 4608, 16, 0, 192),  # 12,288 blocks
        (2048, 2048, 16, 0, 512),  # 8,192
        (2048, 2048, 8, 1024, 512),
        (64, 576, 8, 1024, 8),
        (64, 147, 8, 1024, 7),
        (16, 144, 8, 1024, 3),  # 768, the nearest to 1,024
        (16, 144, 16, 1024, 3),
        (16, 27, 8, 1024, 3),  # 144; with a multiple per weight (432), 4 bits would become 8
        (8, 37, 8, 1024, None),
    ],
)
def test_blocks_are_whole_and_near_the_wanted_size(
    channels: int, k: int, wanted: int, fewest: int, size: int | None
) -> None:
    assert equal_block(channels, k, wanted, fewest) == size
