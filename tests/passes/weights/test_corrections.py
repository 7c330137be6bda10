"""What the correction passes decide, from statistics alone."""

import numpy as np
import pytest

from passes.numerics.output_statistics import OutputStatistics
from passes.weights.batchnorm_reestimation import ReestimateBatchnorm
from passes.weights.bias_correction import BiasCorrection
from tests.support.arrays import output_pair, output_statistics


def test_bias_correction_restores_the_mean_and_nothing_else() -> None:
    exact, other = output_pair()
    seen = output_statistics(exact, other)
    found = BiasCorrection().correct(seen)
    assert (found.factor == 1).all()
    np.testing.assert_allclose((other + found.shift[:, None]).mean(axis=1), exact.mean(axis=1), atol=1e-5)
    nothing = np.zeros_like(found.shift)
    assert seen.error(found.factor, found.shift) < seen.error(found.factor, nothing)


def test_reestimation_restores_mean_and_spread() -> None:
    exact, other = output_pair()
    found = ReestimateBatchnorm().correct(output_statistics(exact, other))
    corrected = found.factor[:, None] * other + found.shift[:, None]
    np.testing.assert_allclose(corrected.mean(axis=1), exact.mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(corrected.std(axis=1), exact.std(axis=1), rtol=1e-4)


def test_factors_are_bounded_and_dead_channels_keep_theirs() -> None:
    variance, quantized = np.array([[9.0, 1.0, 0.0, 1.0]]), np.array([[1.0, 9.0, 1.0, 0.0]])
    zero = np.zeros((1, 4))
    seen = OutputStatistics(zero, zero + 1, variance, quantized, zero)
    assert ReestimateBatchnorm(largest=2).correct(seen).factor.tolist() == [[2, 0.5, 1, 1]]
    assert ReestimateBatchnorm(largest=4).correct(seen).factor.tolist() == [[3, 1 / 3, 1, 1]]
    assert ReestimateBatchnorm(largest=2).correct(seen).shift.tolist() == [[-2, -0.5, -1, -1]]


@pytest.mark.parametrize("largest", [0.5, float("inf"), float("nan")])
def test_a_bound_below_one_is_refused(largest: float) -> None:
    with pytest.raises(ValueError, match="largest must be at least 1, not"):
        ReestimateBatchnorm(largest=largest)
