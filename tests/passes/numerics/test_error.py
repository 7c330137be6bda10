"""SQNR: its formula, its limits, and sums over batches."""

import math

import numpy as np
import pytest

from passes.numerics.error import SqnrSum, decibel, sqnr_db


def test_sqnr_is_ten_log10_of_signal_over_noise() -> None:
    # 25 of signal over 0.25 of noise: a factor of 100
    assert sqnr_db(np.array([3.0, 4.0]), np.array([3.0, 3.5])) == pytest.approx(20, abs=1e-12)


def test_sqnr_is_not_symmetric() -> None:
    small, large = np.array([1.0]), np.array([2.0])
    assert sqnr_db(small, large) == 0
    assert sqnr_db(large, small) == pytest.approx(10 * math.log10(4), abs=1e-12)


def test_one_more_bit_is_six_decibels() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 100_000)
    coarse, fine = (np.round(values * levels) / levels for levels in (64, 128))
    assert sqnr_db(values, fine) - sqnr_db(values, coarse) == pytest.approx(20 * math.log10(2), abs=0.1)  # sampling


def test_equal_is_infinite_even_without_signal() -> None:
    assert sqnr_db(np.zeros(3), np.zeros(3)) == math.inf
    assert sqnr_db(np.ones(3), np.ones(3)) == math.inf
    assert SqnrSum().db == math.inf


def test_noise_without_signal_is_minus_infinite() -> None:
    assert sqnr_db(np.zeros(2), np.ones(2)) == -math.inf


def test_extreme_sums_do_not_overflow() -> None:
    assert decibel(1e300, 1e-300) == pytest.approx(6000, abs=1e-9)


def test_streamed_batches_give_the_sum_of_the_whole() -> None:
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(37, 3, 5)).astype(np.float32)
    other = reference + rng.normal(scale=0.01, size=reference.shape).astype(np.float32)
    total = SqnrSum()
    for start in range(0, 37, 8):
        total.update(reference[start : start + 8], other[start : start + 8])
    assert total.db == pytest.approx(sqnr_db(reference, other), abs=1e-9)


def test_sums_are_float64() -> None:
    # in float16 or float32 the squares overflow, or are lost next to 1e4
    reference = np.full(1000, 300, dtype=np.float16)
    other = reference + np.float16(0.25)
    assert sqnr_db(reference, other) == pytest.approx(20 * math.log10(300 / 0.25), abs=1e-9)


def test_refuses_shapes_that_would_broadcast() -> None:
    with pytest.raises(ValueError, match=r"reference has shape \(2, 1\), other has shape \(2, 3\)"):
        sqnr_db(np.ones((2, 1)), np.ones((2, 3)))
