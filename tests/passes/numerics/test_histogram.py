import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from passes.numerics.histogram import Histogram

floats = st.floats(-(2.0**100), 2.0**100, width=32)
vectors = arrays(np.float32, st.integers(0, 60), elements=floats)


def one_shot(values: np.ndarray, bins: int = 16) -> Histogram:
    histogram = Histogram(bins)
    histogram.update(values)
    return histogram


def assert_same(one: Histogram, other: Histogram) -> None:
    assert one.count == other.count
    assert one.zeros == other.zeros
    assert (one.min, one.max, one.width) == (other.min, other.max, other.width)
    np.testing.assert_array_equal(one.edges, other.edges)
    np.testing.assert_array_equal(one.counts, other.counts)
    assert one.mean_abs == pytest.approx(other.mean_abs, rel=1e-12)


@given(vectors)
def test_counts_are_conserved_and_exact_within_each_bin(values: np.ndarray) -> None:
    histogram = one_shot(values)
    assert histogram.counts.sum() == histogram.count == len(values)
    expected = np.histogram(values.astype(np.float64), histogram.edges)[0] if len(values) else histogram.counts
    # numpy's last bin includes its right edge, but no value lies on it here
    assert not len(values) or values.max() < histogram.edges[-1]
    np.testing.assert_array_equal(histogram.counts, expected)


@given(st.lists(vectors, max_size=5), st.randoms(use_true_random=False))
def test_any_split_in_any_order_gives_the_same_histogram(batches: list[np.ndarray], random: object) -> None:
    whole = one_shot(np.concatenate([np.zeros(0, np.float32), *batches]))
    parts = Histogram(16)
    random.shuffle(batches)  # type: ignore[attr-defined]
    for batch in batches:
        parts.update(batch)
    assert_same(parts, whole)


@given(vectors.filter(len))
def test_min_max_and_mean_abs_are_exact(values: np.ndarray) -> None:
    histogram = one_shot(values)
    assert histogram.min == values.min()
    assert histogram.max == values.max()
    assert histogram.zeros == np.sum(values == 0.0)
    assert histogram.mean_abs == pytest.approx(np.abs(values.astype(np.float64)).mean(), rel=1e-12)


@given(vectors.filter(lambda values: len(values) > 0 and np.ptp(values.astype(np.float64)) > 1e-30))
def test_width_is_the_smallest_power_of_two_that_fits(values: np.ndarray) -> None:
    histogram = one_shot(values)
    low, high = float(values.min()), float(values.max())
    assert np.floor(high / histogram.width) - np.floor(low / histogram.width) < 16
    finer = histogram.width / 2
    too_fine_for_float32 = max(abs(low), abs(high)) / finer >= 2**21
    assert too_fine_for_float32 or np.floor(high / finer) - np.floor(low / finer) >= 16


def test_worked_example_of_the_docstring() -> None:
    histogram = one_shot(np.array([0, 1, 2, 3]), 4)
    assert histogram.edges.tolist() == [0, 1, 2, 3, 4]
    assert histogram.counts.tolist() == [1, 1, 1, 1]
    histogram.update(np.array([9]))
    assert histogram.edges.tolist() == [0, 4, 8, 12, 16]
    assert histogram.counts.tolist() == [4, 0, 1, 0]


def test_no_bin_straddles_zero() -> None:
    histogram = one_shot(np.array([-3.1, 0.0, 5.7], np.float32), 2048)
    assert 0.0 in histogram.edges
    assert histogram.counts[np.flatnonzero(histogram.edges == 0.0)[0]] == 1


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(np.zeros(5, np.float32), id="zeros"),
        pytest.param(np.full(5, -7.25, np.float32), id="constant"),
        pytest.param(np.full(5, 1e-45, np.float32), id="subnormal"),
        pytest.param(np.array([3.4e38, -3.4e38], np.float32), id="largest"),
        pytest.param(np.array([1e-40, 3e38], np.float32), id="smallest_and_largest"),
        pytest.param(np.array([100.0, 100.00001], np.float32), id="far_from_zero"),
        pytest.param(np.array([1, 2, 300]), id="integers"),
        pytest.param(np.array([1, 2, 300], np.float16), id="float16"),
        pytest.param(np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1), id="not_contiguous"),
    ],
)
def test_unusual_values(values: np.ndarray) -> None:
    histogram = Histogram()
    histogram.update(values)
    assert histogram.counts.sum() == values.size
    assert histogram.edges[0] <= values.min()
    assert values.max() <= histogram.edges[-1]


def test_zeros_then_large_values() -> None:
    histogram = one_shot(np.zeros(3, np.float32))
    histogram.update(np.array([1e30], np.float32))
    assert histogram.counts.sum() == 4
    assert histogram.counts[0] == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_or_inf_is_refused_and_nothing_counted(bad: float) -> None:
    histogram = one_shot(np.ones(3))
    with pytest.raises(ValueError, match="NaN or Inf"):
        histogram.update(np.array([0.0, bad], np.float32))
    assert histogram.count == histogram.counts.sum() == 3


def test_one_bin_is_refused() -> None:
    with pytest.raises(ValueError, match="bins=1"):
        Histogram(1)


def test_values_beyond_a_chunk() -> None:
    values = np.random.default_rng(0).normal(size=200_001).astype(np.float32)
    histogram = one_shot(values, 2048)
    np.testing.assert_array_equal(histogram.counts, np.histogram(values.astype(np.float64), histogram.edges)[0])
