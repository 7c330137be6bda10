"""Statistics of both networks' outputs, compared with numpy, and the error that they predict."""

import numpy as np
import pytest

from passes.numerics.output_statistics import OutputSums
from tests.support.arrays import output_pair, output_statistics


@pytest.mark.parametrize("parts", [1, 7])
def test_statistics_are_those_of_all_rows(parts: int) -> None:
    reference, other = output_pair()
    actual = output_statistics(reference, other, parts)
    np.testing.assert_allclose(actual.mean, reference.mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(actual.mean_quantized, other.mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(actual.variance, reference.var(axis=1), rtol=1e-4)
    np.testing.assert_allclose(actual.variance_quantized, other.var(axis=1), rtol=1e-4)
    expected = (reference * other).mean(axis=1) - reference.mean(axis=1) * other.mean(axis=1)
    np.testing.assert_allclose(actual.covariance, expected, rtol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_the_error_is_that_of_the_corrected_outputs(seed: int) -> None:
    reference, other = output_pair(seed)
    rng = np.random.default_rng(seed)
    factor, shift = rng.uniform(0.5, 2, (2, 3)), rng.standard_normal((2, 3))
    corrected = factor[:, None] * other + shift[:, None]
    expected = np.square(corrected - reference).sum() / np.square(reference).sum()
    assert output_statistics(reference, other).error(factor, shift) == pytest.approx(expected, rel=1e-4)


def test_no_signal_no_error() -> None:
    nothing = np.zeros((2, 4, 3), np.float32)
    assert output_statistics(nothing, nothing).error(np.ones((2, 3)), np.zeros((2, 3))) == 0


def test_refusals() -> None:
    with pytest.raises(ValueError, match="no outputs were collected"):
        OutputSums(1, 2).statistics()
    with pytest.raises(ValueError, match=r"outputs of shapes \(1, 2, 3\) and \(1, 3, 3\)"):
        OutputSums(1, 3).update(np.zeros((1, 2, 3), np.float32), np.zeros((1, 3, 3), np.float32))
