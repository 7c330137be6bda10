"""The additive noise model on a linear network, where it is exact, and its corrections."""

import numpy as np
import pytest
from numpy.typing import NDArray

from passes.numerics.noise_table import arriving_shares, as_deployed, importance


def test_importance_is_the_ratio_where_it_was_measured() -> None:
    own = np.array([[0.1, 0.02, 0.005], [0.1, 0.02, 0.005]])
    gain = np.array([0.5, 4.0])
    output = own * gain[:, None]
    output[:, 0] = np.nan
    np.testing.assert_allclose(importance(own, output), gain, rtol=1e-12)


def test_errors_of_independent_layers_add_up() -> None:
    random = np.random.default_rng(0)
    gains, own = random.lognormal(0, 1, 20), random.lognormal(-4, 1, 20)
    direct = [np.sqrt(gain * error) * random.normal(0, 1, 20_000) for gain, error in zip(gains, own, strict=True)]
    assert np.mean(np.square(np.sum(direct, axis=0))) == pytest.approx((gains * own).sum(), rel=0.05)


def test_measured_errors_are_taken_and_others_are_scaled_with_them() -> None:
    own = np.array([[0.4, 0.1, 0.025], [0.4, 0.1, 0.025], [0.4, 0.1, 0.025]])
    table, known = as_deployed(own, np.zeros((3, 3), bool), np.array([1, 2, 0]), np.array([0.05, np.nan, 40.0]))
    np.testing.assert_allclose(table[0], own[0] / 2)
    np.testing.assert_allclose(table[1], own[1])  # not measured
    np.testing.assert_allclose(table[2], [40, 0.4, 0.1])  # the others change by at most four times
    updated, known = as_deployed(table, known, np.array([2, 2, 2]), np.array([0.05, 0.05, 0.2]))
    np.testing.assert_allclose(updated, [[0.2, 0.05, 0.05], [0.8, 0.2, 0.05], [40, 0.4, 0.2]])
    np.testing.assert_array_equal(known, [[False, True, True], [False, False, True], [True, False, True]])


def test_shares_are_learned_bits_by_bits() -> None:
    """Half of the noise of 3 bits and two thirds of that of 4 bits arrive, and 1.5 times that of 2 bits."""
    shares, known = arriving_shares(np.ones(4), np.zeros(4, bool), np.array([0, 0, 0.03, 0]), 0.02)
    np.testing.assert_allclose(shares, [2 / 3] * 4)  # for 2, 3, 4 and 8 bits: the nearest known share
    shares, known = arriving_shares(shares, known, np.array([0, 0.08, 0, 0]), 0.04)
    np.testing.assert_allclose(shares, [1 / 2, 1 / 2, 2 / 3, 2 / 3])
    np.testing.assert_array_equal(known, [False, True, True, False])
    shares, known = arriving_shares(shares, known, np.array([0.1, 0.04, 0.03, 1e-4]), 0.15 + 0.02 + 0.02 + 2e-4 / 3)
    np.testing.assert_allclose(shares, [3 / 2, 1 / 2, 2 / 3, 2 / 3])
    np.testing.assert_array_equal(known, [True, True, True, False])
    shares, _ = arriving_shares(shares, known, np.array([0, 0.04, 0.03, 0]), 0.05)
    np.testing.assert_allclose(shares, [3 / 2, 3 / 4, 2 / 3, 2 / 3])  # all were known, so the fewest bits change


def test_bits_with_little_noise_learn_nothing() -> None:
    known = np.array([False, True, True, False])
    shares, now = arriving_shares(np.full(4, 0.5), known, np.array([0, 0.04, 0.03, 1e-5]), 1.15 * 0.035)
    assert shares[3] == shares[2]
    np.testing.assert_array_equal(now, known)


def test_one_attempt_changes_a_share_by_at_most_four_times() -> None:
    known = np.array([False, True, True, False])
    for arrived, expected in ((-1.0, 0.125), (9.0, 2.0)):
        shares, _ = arriving_shares(np.full(4, 0.5), known, np.array([0.03, 0.03, 0.03, 0]), arrived)
        np.testing.assert_allclose(shares, [expected, 0.5, 0.5, 0.5])


def test_a_share_is_not_smaller_than_the_scatter_allows() -> None:
    shares, _ = arriving_shares(np.ones(2), np.zeros(2, bool), np.array([0, 0.04]), -0.002)
    np.testing.assert_allclose(shares, [0.05, 0.05])


@pytest.mark.parametrize(("sums", "arrived"), [(np.zeros(2), 0.1), (np.ones(2), np.nan)])
def test_attempts_without_information_change_nothing(sums: NDArray[np.float64], arrived: float) -> None:
    shares, known = arriving_shares(np.ones(2), np.zeros(2, bool), sums, arrived)
    np.testing.assert_array_equal(shares, [1, 1])
    assert not known.any()


def test_a_layer_without_an_error() -> None:
    table, _ = as_deployed(np.array([[0.4, 0.1]]), np.zeros((1, 2), bool), np.array([0]), np.array([0.0]))
    np.testing.assert_allclose(table, [[1e-12, 0.025]])
