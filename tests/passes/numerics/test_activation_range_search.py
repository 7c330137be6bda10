import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from passes.numerics.activation_range_search import Range, clipped, entropy, minmax, mse, percentile, quantization_error
from passes.numerics.histogram import Histogram

Rule = Callable[[Histogram], Range]

RULES: dict[str, Rule] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse8": lambda h: mse(h, 8, symmetric=False),
    "mse4_symmetric": lambda h: mse(h, 4, symmetric=True),
    "entropy": entropy,
}
rules = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
vectors = arrays(np.float32, st.integers(1, 80), elements=st.floats(-1e4, 1e4, width=32))


def histogram_of(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.update(values)
    return histogram


def draw(seed: int, kind: str, size: int = 50_000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = {
        "normal": rng.normal(size=size),
        "laplace": rng.laplace(size=size),
        "student": rng.standard_t(3, size=size),
        "relu": np.maximum(rng.normal(size=size), 0.0),
        "lognormal": rng.lognormal(0.0, 1.0, size=size),
        "shifted": rng.normal(0.7, 1.0, size=size),
        "negative": -rng.lognormal(0.0, 1.0, size=size),
        "outlier": np.append(rng.normal(size=size), 60.0),
    }[kind]
    return values.astype(np.float32)


KINDS = ["normal", "laplace", "student", "relu", "lognormal", "shifted", "negative", "outlier"]


def measured_error(values: np.ndarray, ends: Range, bits: int, symmetric: bool) -> float:
    """Return the mean squared error of quantized `values`, with code independent of the search."""
    if symmetric:
        last = 2 ** (bits - 1) - 1
        step = max(-ends.low, ends.high) / last
        codes = np.clip(np.round(values / step), -last, last)
        return float(np.mean((codes * step - values) ** 2))
    step = (ends.high - ends.low) / (2**bits - 1)
    zero = np.round(-ends.low / step)
    codes = np.clip(np.round(values / step) + zero, 0, 2**bits - 1)
    return float(np.mean(((codes - zero) * step - values) ** 2))


@rules
@given(values=vectors)
def test_zero_is_inside_and_nothing_beyond_the_data(rule: Rule, values: np.ndarray) -> None:
    low, high = rule(histogram_of(values))
    assert low <= 0.0 <= high
    largest = float(np.abs(values).max())
    span = max(0.0, float(values.max())) - min(0.0, float(values.min()))
    assert -low <= max(largest, span) * 1.01  # rounding the zero point moves an end by at most half a step
    assert high <= max(largest, span) * 1.01


@rules
def test_an_empty_histogram_is_refused(rule: Rule) -> None:
    with pytest.raises(ValueError, match="empty histogram"):
        rule(Histogram())


@rules
def test_all_zeros(rule: Rule) -> None:
    assert rule(histogram_of(np.zeros(4))) == (0.0, 0.0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@rules
def test_one_sided_data_get_a_one_sided_range(rule: Rule, sign: float) -> None:
    low, high = rule(histogram_of(sign * draw(0, "lognormal")))
    if rule is RULES["mse4_symmetric"]:
        assert low == -high
    elif sign > 0:
        assert low == 0.0 < high
    else:
        assert low < 0.0 == high


def test_minmax_holds_zero() -> None:
    assert minmax(histogram_of(np.array([2.0, 5.0]))) == (0.0, 5.0)
    assert minmax(histogram_of(np.array([-2.0, -5.0]))) == (-5.0, 0.0)
    assert minmax(histogram_of(np.array([-2.0, 5.0]))) == (-2.0, 5.0)


@given(vectors, st.floats(50.5, 100.0))
def test_percentile_is_numpys_within_a_bin(values: np.ndarray, p: float) -> None:
    histogram = histogram_of(values)
    ends = percentile(histogram, p)
    two_sided = values.min() < 0 < values.max()
    tail = (100.0 - p) / (2.0 if two_sided else 1.0)
    low = min(0.0, np.percentile(values.astype(np.float64), tail)) if values.min() < 0 else 0.0
    high = max(0.0, np.percentile(values.astype(np.float64), 100.0 - tail)) if values.max() > 0 else 0.0
    slack = histogram.width * 1.0001
    assert abs(ends.low - low) <= slack
    assert abs(ends.high - high) <= slack


@pytest.mark.parametrize("p", [50.0, 0.0, 100.1, -1.0])
def test_percentile_outside_its_domain_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match=str(p)):
        percentile(histogram_of(np.ones(3)), p)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
def test_expected_error_is_the_measured_one(kind: str, bits: int, symmetric: bool) -> None:
    values = draw(1, kind)
    histogram = histogram_of(values)
    for share in (1.0, 0.5, 0.2):
        whole = minmax(histogram)
        ends = Range(whole.low * share, whole.high * share)
        expected = quantization_error(histogram, np.array([ends.low]), np.array([ends.high]), bits, symmetric)[0]
        # values are assumed to fill their bin evenly: 15 % error if a bin is as wide as a step (one value at 60, 8
        # bits)
        tolerance = 0.15 if kind in ("outlier", "student", "lognormal", "negative", "relu") else 0.03
        assert expected == pytest.approx(measured_error(values, ends, bits, symmetric), rel=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
def test_mse_is_never_worse_than_minmax_and_close_to_the_best_clipping(kind: str, bits: int, symmetric: bool) -> None:
    values = draw(2, kind)
    histogram = histogram_of(values)
    whole, chosen = minmax(histogram), mse(histogram, bits, symmetric)
    error = measured_error(values, chosen, bits, symmetric)
    shares = np.linspace(0.02, 1.0, 99)
    best = min(measured_error(values, Range(whole.low * s, whole.high * s), bits, symmetric) for s in shares)
    assert error <= measured_error(values, whole, bits, symmetric) * 1.001
    assert error <= best * 1.05  # the search uses the histogram, the measurement the values


@pytest.mark.parametrize("kind", ["laplace", "student", "outlier"])
def test_mse_clips_heavy_tails(kind: str) -> None:
    values = draw(3, kind)
    histogram = histogram_of(values)
    error = measured_error(values, mse(histogram, 4, symmetric=False), 4, False)
    assert error < 0.6 * measured_error(values, minmax(histogram), 4, False)


@pytest.mark.parametrize(("bits", "clip"), [(2, 1.71), (3, 2.15), (4, 2.55), (8, 3.92)])
def test_mse_finds_the_known_clipping_of_a_gaussian(bits: int, clip: float) -> None:
    """ACIQ, arXiv:1810.05723, table of optimal clipping values for N(0, 1): 1.71, 2.15, 2.55, ..., 3.92 sigma.

    The paper's grid has 2**bits steps. This one has 2**bits - 1 and represents zero exactly. So values agree within 15
    %, and those of 2 bits are not comparable.
    """
    values = np.random.default_rng(4).normal(size=400_000).astype(np.float32)
    low, high = mse(histogram_of(values), bits, symmetric=False)
    if bits > 2:
        assert (high - low) / 2 == pytest.approx(clip, rel=0.15)
    else:
        assert 1.0 < (high - low) / 2 < 2.2


@pytest.mark.parametrize(
    "rule", [RULES["mse8"], RULES["percentile"], RULES["entropy"]], ids=["mse", "percentile", "kl"]
)
@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_uniform_data_keep_nearly_the_whole_range(rule: Rule, low: float) -> None:
    values = np.random.default_rng(5).uniform(low, 1.0, 100_000).astype(np.float32)
    ends = rule(histogram_of(values))
    assert ends.high == pytest.approx(1.0, abs=0.02)
    assert ends.low == pytest.approx(low, abs=0.02)


def test_mse_ends_are_a_grid_with_an_integer_zero_point() -> None:
    low, high = mse(histogram_of(draw(6, "shifted")), 4, symmetric=False)
    zero = -low / ((high - low) / 15)
    assert zero == pytest.approx(round(zero), abs=1e-9)


def test_symmetric_mse_is_symmetric_even_for_one_sided_data() -> None:
    low, high = mse(histogram_of(draw(7, "relu")), 8, symmetric=True)
    assert low == -high


def test_entropy_clips_an_outlier() -> None:
    values = draw(8, "outlier")
    low, high = entropy(histogram_of(values))
    assert high < 20.0
    assert low == pytest.approx(float(values.min()))


def test_entropy_does_not_let_the_zeros_of_a_relu_decide() -> None:
    values = draw(9, "relu", 500_000)
    assert entropy(histogram_of(values)).high > 3.0


def test_entropy_keeps_everything_if_bins_are_no_finer_than_levels() -> None:
    histogram = Histogram(64)
    histogram.update(draw(10, "relu"))
    assert entropy(histogram, 8) == minmax(histogram)


@pytest.mark.parametrize("bits", [1, 0, -3])
def test_too_few_bits_are_refused(bits: int) -> None:
    histogram = histogram_of(draw(11, "normal"))
    with pytest.raises(ValueError, match=f"bits={bits}"):
        mse(histogram, bits, symmetric=False)
    with pytest.raises(ValueError, match=f"bits={bits}"):
        entropy(histogram, bits)


# ------------------------------------------------------------------- what lies outside


@pytest.mark.parametrize("kind", ["normal", "relu", "lognormal", "negative"])
@pytest.mark.parametrize("p", [0.1, 2.0, 30.0])
def test_clipped_is_the_share_outside(kind: str, p: float) -> None:
    values = draw(0, kind)
    low, high = (float(x) for x in np.percentile(values, [p, 100 - p]))
    histogram = histogram_of(values)
    near = np.mean(np.abs(values - low) <= histogram.width) + np.mean(np.abs(values - high) <= histogram.width)
    outside = np.mean((values < low) | (values > high))
    assert clipped(histogram, low, high) == pytest.approx(outside, abs=float(near))


def test_clipped_by_hand() -> None:
    histogram = histogram_of(np.array([-1.0, 0.0, 0.0, 2.0, 8.0], np.float32))
    assert clipped(histogram, -math.inf, math.inf) == 0.0
    assert clipped(histogram, -1.0, 8.0) == 0.0
    assert clipped(histogram, -1.0, 7.9) == pytest.approx(0.2)
    assert clipped(histogram, -0.5, 4.0) == pytest.approx(0.4)
    assert clipped(histogram, 9.0, 10.0) == pytest.approx(1.0)
    same = histogram_of(np.full(7, 3.0, np.float32))
    assert (clipped(same, 0.0, 2.9), clipped(same, 0.0, 3.0)) == (1.0, 0.0)


def test_clipped_refuses_an_empty_histogram() -> None:
    with pytest.raises(ValueError, match="empty histogram"):
        clipped(Histogram(), 0.0, 1.0)
