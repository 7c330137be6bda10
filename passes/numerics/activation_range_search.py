"""Choose the range (low, high) of an activation's integer grid from the tensor's histogram.

A `b`-bit grid over (low, high) has step s = (high - low) / (2^b - 1) and an integer zero point. So low <= 0 <= high
always holds, and zero, the padding value, is exact. Values outside the range are clipped to the nearest end. A wider
range clips less and rounds more coarsely. Each function below balances the two in its own way.

Sources: Krishnamoorthi 2018 (arXiv:1806.08342) section 2.1 for the affine grid; Banner et al. 2019, ACIQ
(arXiv:1810.05723) for the mean squared error of clipping and rounding; Migacz 2017, "8-bit inference with TensorRT"
(GTC s7310) for the entropy rule.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from passes.numerics.histogram import Histogram

__all__ = ["Range", "clipped", "entropy", "minmax", "mse", "percentile", "quantization_error"]

Floats = npt.NDArray[np.float64]


class Range(NamedTuple):
    """Ends of a quantization range, with low <= 0 <= high."""

    low: float
    high: float


def minmax(histogram: Histogram) -> Range:
    """Return the range of all values, widened to include zero. Nothing is clipped.

    Raises:
        ValueError: The histogram is empty.
    """
    if not histogram.count:
        raise ValueError("no range can be chosen from an empty histogram; give it calibration data")
    return Range(min(0.0, histogram.min), max(0.0, histogram.max))


def percentile(histogram: Histogram, p: float = 99.99) -> Range:
    """Return the range that holds `p` percent of the values.

    One-sided data lose the outer 100 - p percent. Two-sided data lose half of that at each end. The ends are within one
    bin width of numpy.percentile's.

    Raises:
        ValueError: `p` is not above 50 and at most 100, or the histogram is empty.
    """
    whole = minmax(histogram)
    if not 50.0 < p <= 100.0:
        raise ValueError(f"percentile {p}: give a number above 50 and at most 100, such as 99.99")
    tail = (100.0 - p) / (2.0 if whole.low < 0.0 < whole.high else 1.0)
    low = _quantile(histogram, tail) if whole.low < 0.0 else 0.0
    high = _quantile(histogram, 100.0 - tail) if whole.high > 0.0 else 0.0
    return Range(min(0.0, low), max(0.0, high))


def mse(histogram: Histogram, bits: int, symmetric: bool) -> Range:
    """Return the range whose grid has the least mean squared error, clipping included.

    The result is the argmin over (low, high) of E[(Q(x) - x)^2]. The density is constant inside each bin, and the zero
    point is rounded as in deployment. The returned ends are the first and the last value of the grid. Symmetric grids
    have +-(2^(b-1) - 1) steps. Two-sided ranges are searched along one shared clipping ratio first, then one end at a
    time.

    Raises:
        ValueError: `bits` is less than 2, or the histogram is empty.
    """
    whole = minmax(histogram)
    ratios = np.concatenate([np.linspace(1.0, 0.3, 71), np.geomspace(0.29, 0.002, 57)])
    nearby = np.concatenate([np.linspace(0.5, 0.9, 9), np.linspace(0.92, 1.3, 20)])
    if symmetric:
        largest = max(-whole.low, whole.high)
        return _best(histogram, -largest * ratios, largest * ratios, bits, symmetric)
    best = _best(histogram, whole.low * ratios, whole.high * ratios, bits, symmetric)
    if whole.low < 0.0 < whole.high:
        for _ in range(2):
            highs = np.append(np.minimum(best.high * nearby, whole.high), best.high)
            best = _best(histogram, np.full_like(highs, best.low), highs, bits, symmetric)
            lows = np.append(np.maximum(best.low * nearby, whole.low), best.low)
            best = _best(histogram, lows, np.full_like(lows, best.high), bits, symmetric)
    return best


def entropy(histogram: Histogram, bits: int = 8) -> Range:
    """Return the range with the least KL divergence between the clipped and the quantized values.

    Migacz 2017, as implemented in onnxruntime's calibration (`get_entropy_threshold`). For a threshold after i bins of
    |x|, P is the histogram of these bins, with everything beyond added to bin i. Q is the histogram inside the
    threshold, summed into as many levels as the grid has on one side, and spread evenly over the bins that are not
    empty. The threshold minimises KL(P || Q).

    The bin at zero gets the count of its neighbour, as in NVIDIA's pytorch-quantization (`_compute_amax_entropy`). Zero
    is exact on every grid, and a ReLU's zeros would otherwise dominate. The threshold holds for both signs, and is cut
    to the range of the data.

    Raises:
        ValueError: `bits` is less than 2, or the histogram is empty.
    """
    whole = minmax(histogram)
    counts, width = _magnitudes(histogram)  # [m]
    levels = _levels(bits) + 1 if whole.low == 0.0 or whole.high == 0.0 else (_levels(bits) + 1) // 2
    if len(counts) <= levels:
        return whole  # each level holds at most one bin, so there is no trade-off
    counts[0] = counts[1]
    sizes = np.unique(np.linspace(levels, len(counts), 257).astype(np.int64))
    divergence = [_divergence(counts, int(size), levels) for size in sizes]
    threshold = float(sizes[int(np.argmin(divergence))]) * width
    return Range(max(whole.low, -threshold), min(whole.high, threshold))


def clipped(histogram: Histogram, low: float, high: float) -> float:
    """Return the share of the values below ``low`` or above ``high``.

    A bin that contains an end of the range is assumed to be filled evenly.

    Raises:
        ValueError: The histogram is empty.
    """
    minmax(histogram)
    edges = np.clip(histogram.edges, histogram.min, histogram.max)  # values of the outer bins lie within these
    left, right = edges[:-1], edges[1:]
    width = right - left
    inside = np.clip(np.minimum(right, high) - np.maximum(left, low), 0.0, None)
    point = width == 0.0  # one value, or no value at all
    share = np.where(point, (low <= left) & (left <= high), inside / np.where(point, 1.0, width))
    return float(histogram.counts @ (1.0 - share) / histogram.count)


def quantization_error(histogram: Histogram, low: Floats, high: Floats, bits: int, symmetric: bool) -> Floats:
    """Return the mean squared error E[(Q(x) - x)^2] of each candidate range (low[i], high[i]), [r].

    Zeros have no error, because every grid represents zero. For other values the density is constant in each bin, and
    the result is exact for that density. With s the step, n = round(x / s) and u = x - n s, the squared error has the
    antiderivative G(x) = n s^3 / 12 + u^3 / 3. Here n is limited to the ends of the grid, so that u includes the
    clipping error. A bin [a, b) with c of N values contributes c / N (G(b) - G(a)) / (b - a).

    Args:
        histogram: Histogram of the tensor, not empty.
        low: Lower ends of the candidates, [r].
        high: Upper ends of the candidates, [r].
        bits: Bits per code.
        symmetric: Whether the zero point is 0.

    Raises:
        ValueError: `bits` is less than 2.
    """
    grid = _grid(low, high, bits, symmetric)
    filled = np.flatnonzero(histogram.counts)
    first, end = int(filled[0]), int(filled[-1]) + 1
    edges = histogram.edges[first : end + 1]  # [h + 1]
    counts = np.where(edges[:-1] == 0.0, -histogram.zeros, 0) + histogram.counts[first:end]  # [h], without zeros
    share = counts / histogram.count
    edges = np.clip(edges, histogram.min, histogram.max)
    width = np.diff(edges)  # [h]
    point = width == 0.0  # all values of this bin equal its left end
    error: Floats = np.diff(_antiderivative(edges, *grid), axis=1) @ np.where(point, 0.0, share / (width + point))
    if point.any():
        error = error + _residual(edges[:-1][point], *grid)[1] ** 2 @ share[point]
    return error


def _levels(bits: int) -> int:
    if bits < 2:
        raise ValueError(f"bits={bits}: a range is chosen for 2 bits or more")
    return (1 << bits) - 1


def _grid(low: Floats, high: Floats, bits: int, symmetric: bool) -> tuple[Floats, Floats, Floats]:
    """Return the step s and the first and the last level n (value n s) of each candidate: [r], [r], [r]."""
    levels = _levels(bits)
    if symmetric:
        last = np.full_like(high, levels // 2)
        return np.maximum(-low, high) / last, -last, last
    step = (high - low) / levels
    first = np.round(low / np.where(step > 0.0, step, 1.0))
    return step, first, first + levels


def _residual(x: Floats, step: Floats, first: Floats, last: Floats) -> tuple[Floats, Floats]:
    """Return the nearest level n and the residual x - n s of every x [h] on every grid [r], both [r, h]."""
    size = np.where(step > 0.0, step, 1.0)[:, None]
    level = np.clip(np.round(x / size), first[:, None], last[:, None])  # [r, h]
    return level, x - level * step[:, None]


def _antiderivative(x: Floats, step: Floats, first: Floats, last: Floats) -> Floats:
    """Return the G of `quantization_error` for every x [h] on every grid [r]: [r, h]."""
    level, rest = _residual(x, step, first, last)
    area: Floats = level * (step[:, None] ** 3 / 12.0)
    area += rest * rest * rest / 3.0  # rest**3 takes four times as long
    return area


def _best(histogram: Histogram, low: Floats, high: Floats, bits: int, symmetric: bool) -> Range:
    """Return the ends of the grid of the candidate with the least error."""
    index = int(np.argmin(quantization_error(histogram, low, high, bits, symmetric)))
    step, first, last = (float(part[index]) for part in _grid(low, high, bits, symmetric))
    return Range(first * step, last * step)


def _quantile(histogram: Histogram, p: float) -> float:
    """Return the `p`-th percentile by numpy.percentile's linear rule. Order statistics are exact to within a bin."""
    rank = p / 100.0 * (histogram.count - 1)
    before = int(rank)
    first, second = _order_statistic(histogram, np.array([before, min(before + 1, histogram.count - 1)]))
    return float(first + (rank - before) * (second - first))


def _order_statistic(histogram: Histogram, k: npt.NDArray[np.int64]) -> Floats:
    """Return the k-th smallest values, counted from 0, with values spread evenly over their bin: [r] -> [r]."""
    ends = np.cumsum(histogram.counts)
    index = np.searchsorted(ends, k, side="right")
    counts = histogram.counts[index]
    value = histogram.edges[index] + histogram.width * (k - (ends[index] - counts) + 0.5) / counts
    return np.clip(value, histogram.min, histogram.max)


def _magnitudes(histogram: Histogram) -> tuple[Floats, float]:
    """Return the histogram of |x| from zero on, in at most 2 * bins bins, and the width of these bins.

    Bin -i - 1 of x falls on bin i of |x|.
    """
    filled = np.flatnonzero(histogram.counts)
    index = np.round(histogram.edges[filled] / histogram.width).astype(np.int64)
    index = np.where(index < 0, -index - 1, index)
    shift = max(
        0, int(index.max()).bit_length() - histogram.bins.bit_length()
    )  # needed if all values are far from zero
    counts = np.bincount(index >> shift, weights=histogram.counts[filled])
    return counts.astype(np.float64), histogram.width * 2**shift


def _divergence(counts: Floats, size: int, levels: int) -> float:
    """Return KL(P || Q) for |x| clipped to the first `size` bins and quantized to `levels` levels."""
    inside = counts[:size]
    p = inside.copy()
    p[-1] += counts[size:].sum()
    group = np.minimum(np.arange(size) * levels // size, levels - 1)  # [size]
    filled = p > 0.0
    total, holders = np.bincount(group, inside, levels), np.bincount(group, filled, levels)
    q = np.where(filled, (total / np.maximum(holders, 1.0))[group], 0.0)
    if not q.sum():
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    smallest = 1e-4 / size  # smoothing, as in onnxruntime: P may have clipped values where Q has none
    return float(np.sum(p[filled] * np.log(p[filled] / np.maximum(q[filled], smallest))))
