"""The model of kernel times: which of two kernels is faster, as benchmarks.kernel_times measured."""

import pytest

from passes.numerics.kernel_times import Convolution, KernelTimes

TIMES = KernelTimes()


def shape(groups: int, inputs: int, outputs: int, k: int, size: int, dims: int = 2) -> Convolution:
    return Convolution(groups, inputs, outputs, k**dims, k ** (dims - 1), size**dims, dims)


@pytest.mark.parametrize(
    ("convolution", "ratio"),
    [
        (shape(16, 1, 2, 3, 28), 10.7),  # depthwise with multiplier 2
        (shape(16, 2, 2, 3, 28), 5.7),
        (shape(16, 4, 4, 3, 28), 2.5),
        (shape(16, 2, 1, 3, 28), 8.1),
        (shape(16, 1, 8, 3, 28), 8.2),
        (shape(16, 32, 32, 3, 28), 0.6),
        (shape(16, 1, 1, 3, 56), 3.9),
        (shape(256, 1, 1, 3, 14), 1.2),
        (shape(1, 64, 64, 3, 56), 0.29),
        (shape(1, 64, 64, 1, 56), 0.4),
        (shape(64, 1, 2, 9, 1024, dims=1), 15.7),
    ],
)
def test_integers_over_floats(convolution: Convolution, ratio: float) -> None:
    """Measured ratios, within a factor of 1.7."""
    actual = TIMES.integer_time(convolution) / TIMES.float_time(convolution)
    assert ratio / 1.7 < actual < ratio * 1.7


def test_one_long_filter_of_one_channel() -> None:
    """256 taps on one channel took 1,956 us on integers and 445 us in float."""
    lowpass = Convolution(1, 1, 1, 256, 1, 8192, 2)
    assert TIMES.integer_time(lowpass) == pytest.approx(1956e3, rel=0.2)
    assert TIMES.float_time(lowpass) == pytest.approx(445e3, rel=0.2)


def test_a_clamp_takes_no_time_of_its_own() -> None:
    assert TIMES.operator_time("Relu", 1000, integer=True) == TIMES.operator_time("Relu", 1000, integer=False) == 0
    assert TIMES.operator_time("HardSwish", 1000, integer=True) > TIMES.operator_time("HardSwish", 1000, integer=False)
