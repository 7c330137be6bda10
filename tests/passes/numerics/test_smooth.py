"""Scale migration: the equations of the papers, and scales that are always finite and positive."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from passes.numerics.smooth import awq, equalization, salient, smoothquant

Doubles = NDArray[np.float64]

sizes = arrays(np.float64, 6, elements=st.just(0.0) | st.floats(1e-30, 1e30))
RULES: dict[str, Callable[[Doubles, Doubles, float], Doubles]] = {
    "smoothquant": smoothquant,
    "awq": lambda one, _, alpha: awq(one, alpha),
    "equalization": lambda one, other, _: equalization(one, other),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@given(one=sizes, other=sizes, alpha=st.floats(0, 1))
def test_scales_are_finite_and_positive_and_dead_channels_stay(
    rule: Callable[[Doubles, Doubles, float], Doubles], one: Doubles, other: Doubles, alpha: float
) -> None:
    s = rule(one, other, alpha)
    assert np.isfinite(s).all()
    assert (s >= 1e-4 * (1 - 1e-12)).all()
    assert (s <= 1e4 * (1 + 1e-12)).all()
    assert (s[one == 0] == 1).all()


def test_smoothquant_is_its_equation() -> None:
    x, w = np.array([8.0, 2.0, 0.5]), np.array([0.5, 1.0, 3.0])
    for alpha in (0.0, 0.3, 0.5, 1.0):
        expected = x**alpha / w ** (1 - alpha)
        np.testing.assert_allclose(smoothquant(x, w, alpha), expected / np.exp(np.log(expected).mean()))
    balanced = smoothquant(x, w, 0.5)
    np.testing.assert_allclose((x / balanced) / (w * balanced), (x / balanced / w / balanced)[0])  # equal at 1/2
    assert np.ptp(x / smoothquant(x, w, 1.0)) == pytest.approx(0)
    assert np.ptp(w * smoothquant(x, w, 0.0)) == pytest.approx(0)


def test_awq_is_a_power_of_the_activations() -> None:
    x = np.array([8.0, 2.0, 0.5])
    np.testing.assert_allclose(awq(x, 0.5), np.sqrt(x) / 2**0.5)
    np.testing.assert_array_equal(awq(x, 0.0), [1, 1, 1])


def test_the_salient_channels_are_the_largest_and_at_least_one() -> None:
    assert np.flatnonzero(salient(np.array([1.0, 5.0, 2.0]), 0.01)).tolist() == [1]
    assert np.flatnonzero(salient(np.arange(200.0), 0.01)).tolist() == [198, 199]
    assert salient(np.ones(4), 1.0).all()


@given(arrays(np.float64, 5, elements=st.floats(1e-2, 1e2)), arrays(np.float64, 5, elements=st.floats(1e-2, 1e2)))
def test_equalization_makes_both_ranges_their_geometric_mean(rows: Doubles, columns: Doubles) -> None:
    factor = equalization(rows, columns)
    np.testing.assert_allclose(rows * factor, np.sqrt(rows * columns))
    np.testing.assert_allclose(columns / factor, np.sqrt(rows * columns))
