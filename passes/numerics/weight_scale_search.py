"""Choose the scales of a weight grid before rounding, by a search for the least error.

The range of the weights is only the starting point (Nagel et al. 2021, §2.4, "MSE"). Candidates reach from that range
down to a quarter of it. At 2 and 3 bits they reach down to a twentieth, because wider grids would round most weights to
zero. Each output channel, or block, takes the candidate with the smallest weighted squared error

    Σ_k importance_k (Q(w_k) - w_k)²

The importance is the diagonal of the Hessian, or the conditional variances of GPTQ's sweep.

The sum is at least its term for the smallest or the largest weight, which a narrow range clips most. A candidate whose
term alone reaches the least error so far is not summed up. At 8 bits that leaves about a fifth of the candidates.
"""

import numpy as np
from numpy.typing import NDArray

from passes.numerics.grid import Codes, Floats, Grid, code_range

__all__ = ["absmax_grid", "blocked", "search_grid"]

_LEAST_SHRINK, _LEAST_SHRINK_OF_FEW_BITS = 0.25, 0.05
_CHUNK = 1 << 16  # weights that are searched together; they stay in the processor's cache


def absmax_grid(
    weight: Floats, bits: int, *, block_size: int | None = None, symmetric: bool = True, min_scale: Floats | None = None
) -> Grid:
    """Return the grid that just covers the largest weight of every channel or block.

    Args:
        weight: ``[g, o, k]``.
        bits: Bits per code, 2 to 8.
        block_size: Number of inputs that share a scale. None: the whole output channel.
        symmetric: Whether the zero point is 0. Otherwise the grid of each block is affine.
        min_scale: Smallest allowed scale, ``[g, o]``.

    Raises:
        ValueError: ``bits`` is not in 2..8.
    """
    values = blocked(weight, block_size)  # [g, o, b, block]
    ranges = _Ranges(values.min(axis=3), values.max(axis=3), _smallest(values, min_scale), bits, symmetric)
    return Grid(bits, *ranges.shrunk(1.0), block_size)


def search_grid(
    weight: Floats,
    bits: int,
    importance: Floats,
    *,
    block_size: int | None = None,
    symmetric: bool = True,
    min_scale: Floats | None = None,
    candidates: int = 80,
) -> Grid:
    """Return the grid with the least importance-weighted squared rounding error.

    Args:
        weight: ``[g, o, k]``.
        bits: Bits per code, 2 to 8.
        importance: Cost of a squared error at each input, ``[g, k]``, not negative.
        block_size: Number of inputs that share a scale. None: the whole output channel.
        symmetric: Whether the zero point is 0. Otherwise the grid of each block is affine.
        min_scale: Smallest allowed scale, ``[g, o]``.
        candidates: Number of ranges tried, from 1.1 times the full range down.

    Raises:
        ValueError: ``bits`` is not in 2..8.
    """
    values = blocked(weight, block_size)  # [g, o, b, block]
    weights = blocked(importance[:, None, :], block_size)  # [g, 1, b, block]
    shape, size = values.shape[:3], values.shape[3]
    _, outputs, count = shape
    least = _LEAST_SHRINK if bits > 3 else _LEAST_SHRINK_OF_FEW_BITS
    shrinks = (1.0, *np.linspace(1.1, least, candidates))  # the range itself is not among those of linspace
    rows, costs = values.reshape(-1, size), weights.reshape(-1, size)  # [n, block], [g b, block]
    smallest = np.broadcast_to(_smallest(values, min_scale), shape).reshape(-1)
    scale, zero = np.empty(len(rows), np.float32), np.empty(len(rows), np.int8)
    step = max(1, _CHUNK // max(size, 1))
    for start in range(0, len(rows), step):
        part = np.arange(start, min(start + step, len(rows)))
        cost = costs[part // (outputs * count) * count + part % count]
        scale[part], zero[part] = _best(rows[part], cost, bits, smallest[part], symmetric, shrinks)
    return Grid(bits, scale.reshape(shape), zero.reshape(shape), block_size)


def blocked(array: Floats, block_size: int | None) -> Floats:
    """Reshape ``[g, o, k]`` to ``[g, o, b, block_size]``. The last block is padded with zeros."""
    groups, outputs, k = array.shape
    size = block_size or k
    count = -(-k // size)
    padded = np.pad(array, ((0, 0), (0, 0), (0, count * size - k))) if count * size > k else array
    return padded.reshape(groups, outputs, count, size)


class _Ranges:
    """Ranges of blocks, and the grids over multiples of them. All arrays have the shape of ``low``."""

    def __init__(self, low: Floats, high: Floats, smallest: Floats, bits: int, symmetric: bool) -> None:
        self.low, self.high = np.minimum(low, 0), np.maximum(high, 0)
        self.smallest, self.symmetric = smallest, symmetric
        self.codes = code_range(bits)

    def shrunk(self, shrink: float) -> tuple[Floats, Codes]:
        """Return scale and zero point of the grid over ``shrink`` times each range."""
        low_code, high_code = self.codes
        low, high = self.low * np.float32(shrink), self.high * np.float32(shrink)
        wide = np.maximum(-low, high) / high_code if self.symmetric else (high - low) / (high_code - low_code)
        scale: Floats = np.maximum(wide, self.smallest).astype(np.float32)
        if self.symmetric:
            return scale, np.zeros(scale.shape, np.int8)
        return scale, np.clip(np.rint(low_code - low / scale), low_code, high_code).astype(np.int8)


def _smallest(values: Floats, min_scale: Floats | None) -> Floats:
    """Return the smallest scale that is allowed, ``[g, o, 1]``."""
    smallest = np.full(values.shape[:2], np.finfo(np.float32).tiny * 1e6, np.float32)
    lower = smallest if min_scale is None else np.maximum(min_scale, smallest)
    return lower[:, :, None]


def _best(
    rows: Floats, costs: Floats, bits: int, smallest: Floats, symmetric: bool, shrinks: tuple[float, ...]
) -> tuple[Floats, Codes]:
    """Return scale and zero point ``[n]`` of the candidates with the least error.

    Args:
        rows: Weights, ``[n, block]``.
        costs: Importance of each weight, ``[n, block]``.
        bits: Bits per code.
        smallest: Smallest allowed scale, ``[n]``.
        symmetric: Whether the zero point is 0.
        shrinks: Ranges to try, as multiples of the range of each row.
    """
    ends = np.stack((rows.argmin(axis=1), rows.argmax(axis=1)), axis=1)  # [n, 2]
    extremes, extreme_costs = np.take_along_axis(rows, ends, 1), np.take_along_axis(costs, ends, 1)
    ranges = _Ranges(extremes[:, 0], extremes[:, 1], smallest, bits, symmetric)
    scale, zero = ranges.shrunk(1.0)
    error = np.full(len(rows), np.inf, np.float32)
    for shrink in shrinks:
        step, offset = ranges.shrunk(float(shrink))
        term = _squares(extremes, extreme_costs, step, offset, bits).max(axis=1)
        left = np.flatnonzero(term < error)
        whole = len(left) == len(rows)
        own, cost = (rows, costs) if whole else (rows[left], costs[left])
        found = _squares(own, cost, step[left], offset[left], bits).sum(axis=1)
        better = found < error[left]
        index = left[better]
        error[index], scale[index], zero[index] = found[better], step[index], offset[index]
    return scale, zero


def _squares(rows: Floats, costs: Floats, step: Floats, offset: NDArray[np.int8], bits: int) -> Floats:
    """Return the weighted squared rounding error of each weight, ``[n, block]``."""
    low, high = code_range(bits)
    each, zero = step[:, None], offset[:, None].astype(np.float32)
    affine = bool(offset.any())
    result: Floats = np.divide(rows, each)
    np.rint(result, out=result)
    if affine:
        result += zero
    np.clip(result, low, high, out=result)
    if affine:
        result -= zero
    result *= each
    result -= rows
    np.square(result, out=result)
    result *= costs
    return result
