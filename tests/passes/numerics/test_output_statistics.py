"""Statistics of both networks' outputs against numpy, and the error that they foretell."""

import numpy as np
import pytest

from passes.numerics.output_statistics import OutputStatistics, OutputSums


def pair(seed: int = 0, rows: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Outputs [2, n, 3] of a float network, and of one that shrinks and shifts them."""
    rng = np.random.default_rng(seed)
    exact = rng.standard_normal((2, rows, 3)) + np.arange(3)
    other = exact * rng.uniform(0.6, 1.2, (2, 1, 3)) + rng.standard_normal((2, 1, 3)) * 0.3
    other += rng.standard_normal(exact.shape) * 0.1
    return exact.astype(np.float32), other.astype(np.float32)


def statistics(exact: np.ndarray, other: np.ndarray, parts: int = 1) -> OutputStatistics:
    sums = OutputSums(2, 3)
    for one, two in zip(np.array_split(exact, parts, axis=1), np.array_split(other, parts, axis=1), strict=True):
        sums.update(one, two)
    return sums.statistics()


@pytest.mark.parametrize("parts", [1, 7])
def test_statistics_are_those_of_all_rows(parts: int) -> None:
    exact, other = pair()
    found = statistics(exact, other, parts)
    np.testing.assert_allclose(found.mean, exact.mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.mean_quantized, other.mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.variance, exact.var(axis=1), rtol=1e-4)
    np.testing.assert_allclose(found.variance_quantized, other.var(axis=1), rtol=1e-4)
    expected = (exact * other).mean(axis=1) - exact.mean(axis=1) * other.mean(axis=1)
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_the_error_is_that_of_the_corrected_outputs(seed: int) -> None:
    exact, other = pair(seed)
    rng = np.random.default_rng(seed)
    factor, shift = rng.uniform(0.5, 2, (2, 3)), rng.standard_normal((2, 3))
    corrected = factor[:, None] * other + shift[:, None]
    expected = np.square(corrected - exact).sum() / np.square(exact).sum()
    assert statistics(exact, other).error(factor, shift) == pytest.approx(expected, rel=1e-4)


def test_no_signal_no_error() -> None:
    nothing = np.zeros((2, 4, 3), np.float32)
    assert statistics(nothing, nothing).error(np.ones((2, 3)), np.zeros((2, 3))) == 0


def test_refusals() -> None:
    with pytest.raises(ValueError, match="no outputs were collected"):
        OutputSums(1, 2).statistics()
    with pytest.raises(ValueError, match=r"outputs of shapes \(1, 2, 3\) and \(1, 3, 3\)"):
        OutputSums(1, 3).update(np.zeros((1, 2, 3), np.float32), np.zeros((1, 3, 3), np.float32))
