"""Which range (low, high) of a tensor an integer grid should cover, chosen from its histogram.

A `b`-bit grid over (low, high) has step s = (high - low) / (2^b - 1) and an integer zero point, so low <= 0 <= high
always holds and zero, the padding value, is exact. Values outside are clipped to the nearest end. A wider range clips
less and rounds more coarsely; each rule below is one way to weigh the two.

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
    """Ends of a quantization range, low <= 0 <= high."""

    low: float
    high: float


def minmax(histogram: Histogram) -> Range:
    """The whole range, widened to hold zero: nothing is clipped.

    Raises:
        ValueError: the histogram is empty (so for every rule here).
    """
    if not histogram.count:
        raise ValueError("no range can be chosen from an empty histogram; give it calibration data")
    return Range(min(0.0, histogram.min), max(0.0, histogram.max))


def percentile(histogram: Histogram, p: float = 99.99) -> Range:
    """The range that holds `p` percent of the values.

    One-sided data lose the outer 100 - p percent, two-sided data half of that at each end. The ends are within one
    bin width of numpy.percentile's.

    Raises:
        ValueError: `p` is not above 50 and at most 100.
    """
    whole = minmax(histogram)
    if not 50.0 < p <= 100.0:
        raise ValueError(f"percentile {p}: give a number above 50 and at most 100, such as 99.99")
    tail = (100.0 - p) / (2.0 if whole.low < 0.0 < whole.high else 1.0)
    low = _quantile(histogram, tail) if whole.low < 0.0 else 0.0
    high = _quantile(histogram, 100.0 - tail) if whole.high > 0.0 else 0.0
    return Range(min(0.0, low), max(0.0, high))


def mse(histogram: Histogram, bits: int, symmetric: bool) -> Range:
    """The range whose grid has the least mean squared error, clipping included.

    argmin over (low, high) of E[(Q(x) - x)^2], with the density taken as constant inside a bin and the zero point
    rounded as it will be when deployed. The ends returned are the grid's own first and last value. Symmetric grids
    are +-(2^(b-1) - 1) steps. Two-sided ranges are searched along one shared clipping ratio, then one end at a time.

    Raises:
        ValueError: fewer than 2 bits.
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
    """The range that keeps the most information: least KL divergence between the clipped and the quantized values.

    Migacz 2017, in the form of onnxruntime's calibration (`get_entropy_threshold`): for i bins of |x|, P is the
    histogram with everything beyond added to bin i, Q the histogram inside, summed into as many levels as the grid has
    on one side and spread evenly over the bins that are not empty; i minimises KL(P || Q). As in NVIDIA's
    pytorch-quantization (`_compute_amax_entropy`) the bin at zero counts as its neighbour does: zero is exact on every
    grid, and a ReLU's zeros would otherwise decide alone. The threshold holds for both signs and is cut to the data's
    range.

    Raises:
        ValueError: fewer than 2 bits.
    """
    whole = minmax(histogram)
    counts, width = _magnitudes(histogram)  # [m]
    levels = _levels(bits) + 1 if whole.low == 0.0 or whole.high == 0.0 else (_levels(bits) + 1) // 2
    if len(counts) <= levels:
        return whole  # each level holds at most one bin: nothing to weigh
    counts[0] = counts[1]
    sizes = np.unique(np.linspace(levels, len(counts), 257).astype(np.int64))
    divergence = [_divergence(counts, int(size), levels) for size in sizes]
    threshold = float(sizes[int(np.argmin(divergence))]) * width
    return Range(max(whole.low, -threshold), min(whole.high, threshold))


def clipped(histogram: Histogram, low: float, high: float) -> float:
    """Share of the values below ``low`` or above ``high``; a bin that an end cuts is taken as evenly filled.

    Raises:
        ValueError: the histogram is empty.
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
    """Mean squared error E[(Q(x) - x)^2] of each candidate range (low[i], high[i]) [r] -> [r].

    Exact for zeros, which every grid holds, and else for a density that is constant in each bin: with s the step,
    n = round(x / s) and u = x - n s, the squared error has the antiderivative G(x) = n s^3 / 12 + u^3 / 3, where n
    stops at the ends of the grid so that u is what clipping takes away. A bin [a, b) with c of N values contributes
    c / N (G(b) - G(a)) / (b - a).
    """
    grid = _grid(low, high, bits, symmetric)
    held = np.flatnonzero(histogram.counts)
    first, end = int(held[0]), int(held[-1]) + 1
    edges = histogram.edges[first : end + 1]  # [h + 1]
    counts = np.where(edges[:-1] == 0.0, -histogram.zeros, 0) + histogram.counts[first:end]  # [h], without zeros
    share = counts / histogram.count
    edges = np.clip(edges, histogram.min, histogram.max)
    width = np.diff(edges)  # [h]
    point = width == 0.0  # all values of this bin are one value, known exactly: its left end
    error: Floats = np.diff(_antiderivative(edges, *grid), axis=1) @ np.where(point, 0.0, share / (width + point))
    if point.any():
        error = error + _residual(edges[:-1][point], *grid)[1] ** 2 @ share[point]
    return error


def _levels(bits: int) -> int:
    if bits < 2:
        raise ValueError(f"bits={bits}: a range is chosen for 2 bits or more")
    return (1 << bits) - 1


def _grid(low: Floats, high: Floats, bits: int, symmetric: bool) -> tuple[Floats, Floats, Floats]:
    """Step s and the first and last level (integers n, values n s) of each candidate: [r], [r], [r]."""
    levels = _levels(bits)
    if symmetric:
        last = np.full_like(high, levels // 2)
        return np.maximum(-low, high) / last, -last, last
    step = (high - low) / levels
    first = np.round(low / np.where(step > 0.0, step, 1.0))
    return step, first, first + levels


def _residual(x: Floats, step: Floats, first: Floats, last: Floats) -> tuple[Floats, Floats]:
    """Nearest level n and x - n s of every x [h] on every grid [r]: [r, h]."""
    size = np.where(step > 0.0, step, 1.0)[:, None]
    level = np.clip(np.round(x / size), first[:, None], last[:, None])  # [r, h]
    return level, x - level * step[:, None]


def _antiderivative(x: Floats, step: Floats, first: Floats, last: Floats) -> Floats:
    """G of `quantization_error`: [h] -> [r, h]."""
    level, rest = _residual(x, step, first, last)
    area: Floats = level * (step[:, None] ** 3 / 12.0) + rest**3 / 3.0
    return area


def _best(histogram: Histogram, low: Floats, high: Floats, bits: int, symmetric: bool) -> Range:
    """The candidate with the least error, as the ends of its grid."""
    index = int(np.argmin(quantization_error(histogram, low, high, bits, symmetric)))
    step, first, last = (float(part[index]) for part in _grid(low, high, bits, symmetric))
    return Range(first * step, last * step)


def _quantile(histogram: Histogram, p: float) -> float:
    """numpy.percentile's linear rule on order statistics, each known to within its bin."""
    rank = p / 100.0 * (histogram.count - 1)
    before = int(rank)
    first, second = _order_statistic(histogram, np.array([before, min(before + 1, histogram.count - 1)]))
    return float(first + (rank - before) * (second - first))


def _order_statistic(histogram: Histogram, k: npt.NDArray[np.int64]) -> Floats:
    """The k-th smallest value (from 0), values spread evenly over their bin: [r] -> [r]."""
    ends = np.cumsum(histogram.counts)
    index = np.searchsorted(ends, k, side="right")
    counts = histogram.counts[index]
    value = histogram.edges[index] + histogram.width * (k - (ends[index] - counts) + 0.5) / counts
    return np.clip(value, histogram.min, histogram.max)


def _magnitudes(histogram: Histogram) -> tuple[Floats, float]:
    """Counts of |x| from zero on, in at most 2 * bins bins, and their width. Bin -i - 1 of x falls on bin i."""
    held = np.flatnonzero(histogram.counts)
    index = np.round(histogram.edges[held] / histogram.width).astype(np.int64)
    index = np.where(index < 0, -index - 1, index)
    shift = max(0, int(index.max()).bit_length() - histogram.bins.bit_length())  # values all far from zero
    counts = np.bincount(index >> shift, weights=histogram.counts[held])
    return counts.astype(np.float64), histogram.width * 2**shift


def _divergence(counts: Floats, size: int, levels: int) -> float:
    """KL(P || Q) of clipping |x| to the first `size` bins and quantizing them to `levels` levels."""
    inside = counts[:size]
    p = inside.copy()
    p[-1] += counts[size:].sum()
    group = np.minimum(np.arange(size) * levels // size, levels - 1)  # [size]
    full = p > 0.0
    total, holders = np.bincount(group, inside, levels), np.bincount(group, full, levels)
    q = np.where(full, (total / np.maximum(holders, 1.0))[group], 0.0)
    if not q.sum():
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    min_scale = 1e-4 / size  # onnxruntime smooths too: clipped mass may sit where nothing was inside
    return float(np.sum(p[full] * np.log(p[full] / np.maximum(q[full], min_scale))))
