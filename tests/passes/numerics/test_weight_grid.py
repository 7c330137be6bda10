"""The form of a grid: the search that it uses, its baseline, and invalid forms."""

import re
from typing import Any

import numpy as np
import pytest

from passes.numerics.grid import Floats, Grid
from passes.numerics.two_level import two_level_grid
from passes.numerics.weight_grid import GridForm
from passes.numerics.weight_scale_search import absmax_grid, search_grid

RNG = np.random.default_rng(3)
WEIGHT = RNG.standard_t(4, (2, 5, 24)).astype(np.float32)
IMPORTANCE = RNG.lognormal(0, 2, (2, 24)).astype(np.float32)
MIN_SCALE = np.linspace(0.01, 1.0, 10, dtype=np.float32).reshape(2, 5)


def assert_same(actual: Grid, expected: Grid) -> None:
    assert (actual.bits, actual.block_size) == (expected.bits, expected.block_size)
    np.testing.assert_array_equal(actual.scale, expected.scale)
    np.testing.assert_array_equal(actual.zero_point, expected.zero_point)
    np.testing.assert_array_equal(actual.multiple(24), expected.multiple(24))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block_size", [None, 8])
@pytest.mark.parametrize("min_scale", [None, MIN_SCALE], ids=["free", "min_scale"])
def test_scales_are_searched_or_cover_the_largest_weights(
    symmetric: bool, block_size: int | None, min_scale: Floats | None
) -> None:
    form = GridForm(3, block_size, symmetric)
    searched = search_grid(WEIGHT, 3, IMPORTANCE, block_size=block_size, symmetric=symmetric, min_scale=min_scale)
    plain = absmax_grid(WEIGHT, 3, block_size=block_size, symmetric=symmetric, min_scale=min_scale)
    assert_same(form.grid(WEIGHT, IMPORTANCE, min_scale), searched)
    assert_same(form.plain().grid(WEIGHT, IMPORTANCE, min_scale), plain)
    assert not np.array_equal(searched.scale, plain.scale)


@pytest.mark.parametrize("min_scale", [None, MIN_SCALE], ids=["free", "min_scale"])
def test_the_baseline_of_two_levels_is_one_scale_per_channel(min_scale: Floats | None) -> None:
    form = GridForm(3, 8, two_level=True)
    actual = form.grid(WEIGHT, IMPORTANCE, min_scale)
    assert actual.multiples is not None
    assert_same(actual, two_level_grid(WEIGHT, 3, IMPORTANCE, block_size=8, min_scale=min_scale))
    assert_same(form.plain().grid(WEIGHT, IMPORTANCE, min_scale), absmax_grid(WEIGHT, 3, min_scale=min_scale))


@pytest.mark.parametrize("form", [GridForm(3), GridForm(3, 8, two_level=True)], ids=["channel", "two levels"])
def test_without_importance_all_inputs_count_alike(form: GridForm) -> None:
    assert_same(form.grid(WEIGHT), form.grid(WEIGHT, np.full((2, 24), 1, np.float32)))
    assert not np.array_equal(form.grid(WEIGHT).scale, form.grid(WEIGHT, IMPORTANCE).scale)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bits": 9}, "weight bits must be 2 to 8, not 9"),
        ({"block_size": 0}, "block_size must be at least 1, not 0"),
        ({"two_level": True}, "two_level needs a block_size, such as block_size = 8"),
        ({"two_level": True, "block_size": 16, "bits": 5}, "two_level is for weights of up to 4 bits, not 5"),
        ({"two_level": True, "block_size": 16, "symmetric": False}, "two_level grids are symmetric; leave symmetric"),
        (
            {"two_level": True, "block_size": 16, "search": False},
            "two_level scales are searched; leave scale = absmax out",
        ),
    ],
)
def test_invalid_forms_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        GridForm(**({"bits": 4} | fields))
