import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from passes.numerics.channels import ChannelStatistics

rows = arrays(np.float32, st.tuples(st.integers(0, 20), st.just(3)), elements=st.floats(-1e6, 1e6, width=32))


@given(st.lists(rows, max_size=4))
def test_batchwise_equals_one_shot(batches: list[np.ndarray]) -> None:
    together = np.concatenate([np.zeros((0, 3), np.float32), *batches]).astype(np.float64)
    statistics = ChannelStatistics(3)
    for batch in batches:
        statistics.update(batch)
    assert statistics.count == len(together)
    if len(together):
        np.testing.assert_array_equal(statistics.absmax, np.abs(together).max(axis=0))
        np.testing.assert_allclose(statistics.mean_abs, np.abs(together).mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(statistics.mean_square, np.square(together).mean(axis=0), rtol=1e-12)
        np.testing.assert_array_equal(statistics.zeros, (together == 0).mean(axis=0))
        np.testing.assert_allclose(statistics.mean, together.mean(axis=0), rtol=1e-9, atol=1e-6)


def test_worked_example_of_the_docstring() -> None:
    statistics = ChannelStatistics(2)
    statistics.update(np.array([[1, -4], [3, 0]]))
    assert statistics.absmax.tolist() == [3, 4]
    assert statistics.mean_abs.tolist() == [2, 2]
    assert statistics.mean_square.tolist() == [5, 8]
    assert statistics.mean.tolist() == [2, -2]
    assert statistics.zeros.tolist() == [0, 0.5]
    assert statistics.count == 2


def test_sums_do_not_lose_small_values() -> None:
    statistics = ChannelStatistics(1)
    for _ in range(40):
        statistics.update(np.full((500_000, 1), 0.1, np.float32))
    assert statistics.mean[0] == pytest.approx(np.float32(0.1), rel=1e-9)


def test_no_rows() -> None:
    statistics = ChannelStatistics(2)
    assert statistics.mean.tolist() == statistics.mean_abs.tolist() == statistics.absmax.tolist() == [0, 0]


@pytest.mark.parametrize("shape", [(3,), (2, 4), (1, 2, 3)])
def test_rows_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\[n, 3\] was expected"):
        ChannelStatistics(3).update(np.zeros(shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_or_inf_names_the_channel_and_counts_nothing(bad: float) -> None:
    statistics = ChannelStatistics(2)
    with pytest.raises(ValueError, match="channel 1"):
        statistics.update(np.array([[0.0, bad]]))
    assert statistics.count == 0


@given(
    arrays(np.float32, (9, 3), elements=st.floats(-1000, 1000, width=16).filter(lambda x: x == 0 or abs(x) > 1e-3)),
    arrays(np.float64, 3, elements=st.floats(1e-3, 1e3)),
)
def test_rescaled_statistics_are_those_of_rescaled_rows(x: np.ndarray, factors: np.ndarray) -> None:
    original, rescaled = ChannelStatistics(3), ChannelStatistics(3)
    original.update(x)
    rescaled.update(x * factors)
    actual = original.rescaled(factors)
    assert actual.count == rescaled.count
    for name in ("absmax", "mean_abs", "mean_square", "mean", "zeros"):  # `update` rounds rows to float32
        expected = getattr(rescaled, name)
        np.testing.assert_allclose(getattr(actual, name), expected, rtol=1e-6, atol=1e-6 * rescaled.absmax.max())
