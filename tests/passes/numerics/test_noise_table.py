"""The additive noise model on a linear network, where it is exact, and what corrections do."""

import numpy as np
import pytest

from passes.numerics.noise_table import arriving_share, as_deployed, importance


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


def test_a_row_goes_through_what_was_measured_and_keeps_its_ratios() -> None:
    own = np.array([[0.4, 0.1, 0.025], [0.4, 0.1, 0.025], [0.4, 0.1, 0.025]])
    found = as_deployed(own, np.array([1, 2, 0]), np.array([0.05, np.nan, 40.0]))
    np.testing.assert_allclose(found[0], own[0] / 2)
    np.testing.assert_allclose(found[1], own[1])  # not measured
    np.testing.assert_allclose(found[2], own[2] * 4)  # no further than this


def test_the_share_that_arrives() -> None:
    assert arriving_share(0.03, 0.01, 0.04) == pytest.approx(0.5)
    assert arriving_share(0.01, 0.012, 0.04) == 0.05  # within the scatter of the floor
