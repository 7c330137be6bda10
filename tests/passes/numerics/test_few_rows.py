"""With few rows, held-out samples choose a larger damping, and unused rows have a smaller error with it."""

import numpy as np
import pytest

from passes.numerics.few_rows import damping_for_few_rows, has_few_rows
from passes.numerics.gptq import gptq, output_error
from passes.numerics.grid import Floats
from passes.numerics.moments import Moments, MomentsAccumulator
from passes.numerics.weight_grid import GridForm

RNG = np.random.default_rng(5)
DIRECTIONS = np.linalg.qr(RNG.standard_normal((96, 96)))[0]
MIXING = DIRECTIONS * np.arange(1, 97) ** -0.5  # variances fall as 1/i, like those of features


def rows(count: int) -> Floats:
    return np.asarray((RNG.standard_normal((count, 96)) @ MIXING.T)[None], np.float32)


def moments_of(*parts: Floats) -> Moments:
    result = []
    for part in parts:
        accumulator = MomentsAccumulator(1, 96, cross=False)
        accumulator.update(part)
        result.append(accumulator.moments())
    return Moments.joined(*result) if len(result) == 2 else result[0]


def test_it_helps_on_unused_rows() -> None:
    weight = RNG.standard_normal((1, 40, 96)).astype(np.float32)
    unseen = moments_of(rows(4000)).hessian
    few = moments_of(rows(24), rows(24))
    chosen = damping_for_few_rows(weight, few, GridForm(4), 0.05)
    assert chosen > 0.05

    def error(damping: float) -> float:
        result = gptq(weight, few, GridForm(4), damping=damping)
        return output_error(weight, result.grid.values(result.codes), unseen)

    assert error(chosen) < 0.8 * error(0.05)


def test_many_rows_keep_the_given_damping() -> None:
    weight = RNG.standard_normal((1, 40, 96)).astype(np.float32)
    many = moments_of(rows(3000), rows(3000))
    assert damping_for_few_rows(weight, many, GridForm(2), 0.01) == 0.01
    assert not has_few_rows(many)
    assert has_few_rows(moments_of(rows(20), rows(20)))
    assert not has_few_rows(moments_of(rows(20)))  # no halves for cross-validation


def test_halves_are_needed() -> None:
    with pytest.raises(ValueError, match="the moments have no halves"):
        damping_for_few_rows(np.ones((1, 2, 96), np.float32), moments_of(rows(20)), GridForm(4), 0.01)
