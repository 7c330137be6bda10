"""The Hessian gives the output error of a rounded weight, before and after its inputs are rescaled."""

import numpy as np
import pytest

from passes.numerics.awq import output_power, rounding_noise
from passes.numerics.grid import Floats
from passes.numerics.moments import Moments, MomentsAccumulator
from passes.numerics.weight_scale_search import search_grid


def layer(groups: int, seed: int = 0) -> tuple[Floats, Floats, Moments]:
    """Return a weight [g, o, k], rows [g, n, k] and their moments."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((groups, 5, 12)).astype(np.float32)
    rows = (rng.standard_normal((groups, 300, 12)) * rng.lognormal(0, 1, 12)).astype(np.float32)
    total = MomentsAccumulator(groups, 12, cross=False)
    total.update(rows)
    return weight, rows, total.moments()


@pytest.mark.parametrize("groups", [1, 3])
def test_output_power_is_twice_the_mean_square_of_the_outputs(groups: int) -> None:
    weight, rows, moments = layer(groups)
    outputs = np.einsum("gok,gnk->gno", weight, rows)
    assert output_power(weight, moments.hessian) == pytest.approx(2 * np.square(outputs).sum() / 300, rel=1e-4)


@pytest.mark.parametrize("block_size", [None, 4])
@pytest.mark.parametrize("symmetric", [True, False])
def test_noise_in_closed_form_is_the_noise_of_the_rescaled_rows(block_size: int | None, symmetric: bool) -> None:
    weight, rows, moments = layer(2)
    s = np.random.default_rng(1).lognormal(0, 1, (2, 12))
    scaled = (weight * s[:, None, :]).astype(np.float32)
    grid = search_grid(
        scaled, 4, np.ones((2, 12), np.float32), block_size=block_size, symmetric=symmetric, candidates=20
    )
    error = np.einsum("gok,gnk->gno", grid.values(grid.codes(scaled)) - scaled, rows / s[:, None, :])
    actual = rounding_noise(scaled, moments.rescaled(1 / s).hessian, 4, block_size=block_size, symmetric=symmetric)
    assert actual == pytest.approx(2 * np.square(error).sum() / 300, rel=1e-3)
