"""The rotation is orthogonal, its gradient is right, and descent flattens more than a random rotation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.numerics import rotation as numerics
from passes.numerics.rotation import Rotated, flatness, flattening_rotation, smooth_peak

RNG = np.random.default_rng(0)


def heavy(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) ** 3).astype(np.float32)


WEIGHTS = [Rotated(heavy(40, 24), False), Rotated(heavy(24, 60), True)]


@pytest.mark.parametrize("steps", [0, 1, 30])
def test_it_is_orthogonal(steps: int) -> None:
    rotation = flattening_rotation(WEIGHTS, 24, steps=steps, seed=3)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(24), atol=1e-12)


def test_rotating_both_ways_cancels() -> None:
    rotation = flattening_rotation(WEIGHTS, 24, steps=5, seed=0).astype(np.float32)
    read, written = WEIGHTS
    product = read.by(rotation) @ written.by(rotation)
    np.testing.assert_allclose(product, read.weight @ written.weight, atol=1e-4 * np.abs(product).max())


def test_descent_flattens() -> None:
    identity = np.eye(24, dtype=np.float32)
    start, end = (
        flatness(WEIGHTS, flattening_rotation(WEIGHTS, 24, steps=steps, seed=1).astype(np.float32)) for steps in (0, 40)
    )
    assert end < start < flatness(WEIGHTS, identity)
    assert end < 0.7 * start


def test_flatness_of_known_matrices() -> None:
    identity = np.eye(4, dtype=np.float32)
    assert flatness([Rotated(np.full((3, 4), -2, np.float32), False)], identity) == pytest.approx(1)
    assert flatness([Rotated(identity, False)], identity) == pytest.approx(4)  # one peak of 1 in four values
    assert flatness([Rotated(np.zeros((3, 4), np.float32), False)], identity) == 1


@pytest.mark.parametrize("weights", [WEIGHTS[:1], WEIGHTS[1:], WEIGHTS], ids=["read", "written", "both"])
def test_gradient_equals_finite_differences(weights: list[Rotated]) -> None:
    """The directions keep the matrix orthogonal, so that the power of the rows is constant."""
    rotation = flattening_rotation(weights, 24, steps=0, seed=2)
    loss, gradient = smooth_peak(weights, rotation.astype(np.float32))
    skew = RNG.standard_normal((24, 24))
    skew -= skew.T
    direction = skew @ rotation
    above, below = (
        smooth_peak(weights, (rotation + sign * 1e-3 * direction).astype(np.float32))[0] for sign in (1, -1)
    )
    assert loss > 0
    assert (gradient * direction).sum() == pytest.approx((above - below) / 2e-3, rel=0.02)


def test_zeros_and_a_single_channel() -> None:
    zeros = [Rotated(np.zeros((5, 3), np.float32), False)]
    np.testing.assert_allclose(np.abs(np.linalg.det(flattening_rotation(zeros, 3, steps=9, seed=0))), 1)
    assert np.abs(flattening_rotation([Rotated(heavy(5, 1), False)], 1, steps=9, seed=0)) == pytest.approx(1)


def test_a_row_of_zeros_adds_nothing_to_the_slope() -> None:
    """The zero weights of a kernel position are a row whatever the rotation."""
    plain = Rotated(heavy(30, 8), False)
    padded = Rotated(np.concatenate([plain.weight, np.zeros((10, 8), np.float32)]), False)
    rotation = flattening_rotation([plain], 8, steps=0, seed=1).astype(np.float32)
    loss, gradient = smooth_peak([plain], rotation)
    padded_loss, padded_gradient = smooth_peak([padded], rotation)
    assert padded_loss == pytest.approx(loss, rel=1e-5)  # the mean of the rows and the mean square shrink alike
    np.testing.assert_allclose(padded_gradient, gradient, rtol=1e-4, atol=1e-5 * np.abs(gradient).max())
    assert np.isfinite(flattening_rotation([padded], 8, steps=20, seed=1)).all()


@settings(max_examples=20)
@given(size=st.integers(1, 12), steps=st.integers(0, 8), seed=st.integers(0, 99))
def test_a_rotation_that_keeps_the_mean_fixes_the_ones(size: int, steps: int, seed: int) -> None:
    weights = [Rotated(heavy(9, size), False), Rotated(heavy(size, 5), True)]
    rotation = flattening_rotation(weights, size, steps=steps, seed=seed, keeps_mean=True)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(size), atol=1e-12)
    np.testing.assert_allclose(rotation.sum(0), 1, atol=1e-12)
    np.testing.assert_allclose(rotation.sum(1), 1, atol=1e-12)


def test_descent_flattens_while_it_keeps_the_mean() -> None:
    start, end, free = (
        flatness(WEIGHTS, flattening_rotation(WEIGHTS, 24, steps=steps, seed=1, keeps_mean=mean).astype(np.float32))
        for steps, mean in ((0, True), (40, True), (40, False))
    )
    assert end < 0.7 * start
    assert end < 1.1 * free  # one of 24 directions is fixed


def test_large_weights_are_flattened_by_some_of_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    read, written = (draw.standard_normal(shape).astype(np.float32) ** 3 for shape in ((400, 24), (24, 600)))
    weights = [Rotated(read, False), Rotated(written, True)]

    def flattened(steps: int) -> float:
        return flatness(weights, flattening_rotation(weights, 24, steps=steps, seed=1).astype(np.float32))

    by_all, start = flattened(40), flattened(0)
    monkeypatch.setattr(numerics, "_MOST_PRODUCTS", 24 * 24 * 250)  # a quarter of the rows and columns
    assert flattened(0) == start < flatness(weights)
    assert by_all < flattened(40) < 0.85 * start
