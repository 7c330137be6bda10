"""Decisions of the correction passes, from statistics alone."""

import numpy as np
import pytest

from passes.numerics.output_statistics import OutputStatistics
from passes.weights.batchnorm_reestimation import ReestimateBatchnorm
from passes.weights.bias_correction import BiasCorrection
from tests.support.arrays import output_pair, output_statistics


def test_bias_correction_restores_the_mean_and_nothing_else() -> None:
    reference, other = output_pair()
    outputs = output_statistics(reference, other)
    correction = BiasCorrection().correct(outputs)
    assert (correction.factor == 1).all()
    np.testing.assert_allclose((other + correction.shift[:, None]).mean(axis=1), reference.mean(axis=1), atol=1e-5)
    nothing = np.zeros_like(correction.shift)
    assert outputs.error(correction.factor, correction.shift) < outputs.error(correction.factor, nothing)


def test_reestimation_restores_mean_and_spread() -> None:
    reference, other = output_pair()
    correction = ReestimateBatchnorm().correct(output_statistics(reference, other))
    corrected = correction.factor[:, None] * other + correction.shift[:, None]
    np.testing.assert_allclose(corrected.mean(axis=1), reference.mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(corrected.std(axis=1), reference.std(axis=1), rtol=1e-4)


def test_factors_are_bounded_and_dead_channels_keep_theirs() -> None:
    variance, quantized = np.array([[9.0, 1.0, 0.0, 1.0]]), np.array([[1.0, 9.0, 1.0, 0.0]])
    zero = np.zeros((1, 4))
    outputs = OutputStatistics(zero, zero + 1, variance, quantized, zero)
    assert ReestimateBatchnorm(largest=2).correct(outputs).factor.tolist() == [[2, 0.5, 1, 1]]
    assert ReestimateBatchnorm(largest=4).correct(outputs).factor.tolist() == [[3, 1 / 3, 1, 1]]
    assert ReestimateBatchnorm(largest=2).correct(outputs).shift.tolist() == [[-2, -0.5, -1, -1]]


@pytest.mark.parametrize("largest", [0.5, float("inf"), float("nan")])
def test_a_bound_below_one_is_refused(largest: float) -> None:
    with pytest.raises(ValueError, match="largest must be at least 1, not"):
        ReestimateBatchnorm(largest=largest)
