"""Block scales that integer kernels can read: whole multiples of the channel's scale.

Dai et al. 2021 (VS-Quant, arXiv 2102.04503, §4.2): a channel keeps its float scale s, and every block of its inputs a
whole number m, so that a weight is ``s (m q)``. The product ``m q`` fits in 8 bits: once a file is loaded, the kernel
reads plain 8-bit codes with a scale per channel. A multiple has 4 bits, as a type of ONNX has them, and here a sign of
its own: codes reach from -2 to 1 at 2 bits, and a block whose largest weight is positive is better off turned around.
At up to 4 bits ``|m q|`` is at most 64, which no kernel without VNNI saturates at either.
"""

import numpy as np
from numpy.typing import NDArray

from passes.numerics.grid import MULTIPLES, Codes, Floats, Grid, code_range
from passes.numerics.weight_scale_search import blocked, search_grid

__all__ = ["MOST_BITS", "equal_block", "two_level_grid"]

MOST_BITS = 4
"""Of a code whose product with a multiple fits in 8."""

_FACTORS = tuple(float(factor) for factor in np.geomspace(0.7, 1.15, 16))
_LARGEST = -MULTIPLES[0]
_MOST_MULTIPLES = 12_288  # of a layer
_SMALLEST = 3  # inputs of a block: with a multiple a weight, 4 bits would take as much as 8


def equal_block(channels: int, k: int, wanted: int, fewest: int = 0) -> int | None:
    """The size nearest to the one wanted, at most twice as many, of which k inputs are several whole blocks; or None.

    All ``channels`` of a layer have at most 12,288 blocks, whose multiples take 6 kB; so large layers get larger ones.
    In blocks of 16 they would add a sixteenth to any file, and the error of a layer of millions of weights counts
    least. Small layers get smaller ones, about ``fewest`` if blocks of 3 are as many.

    >>> [equal_block(64, k, 16) for k in (576, 243, 9, 37)], equal_block(512, 4608, 16)
    ([16, 27, 3, None], 192)
    >>> [equal_block(16, k, 8, fewest=1024) for k in (576, 144, 27)]
    [8, 3, 3]
    """
    weights = channels * k
    least = -(-weights // _MOST_MULTIPLES)
    most = 2 * max(wanted, least)
    if fewest:
        wanted = min(wanted, -(-weights // fewest))
    wanted = max(wanted, least)
    sizes = [size for size in range(max(_SMALLEST, least), min(most, k - 1) + 1) if k % size == 0]
    return min(sizes, key=lambda size: max(size / wanted, wanted / size), default=None)


def two_level_grid(
    weight: Floats,
    bits: int,
    importance: Floats,
    *,
    block_size: int,
    min_scale: Floats | None = None,
    candidates: int = 40,
) -> Grid:
    """The grid with the least importance-weighted squared rounding error, its block scales whole multiples.

    Every block first finds the scale and the sign that suit it best (`passes.numerics.weight_scale_search`). Then scales of the
    channel are tried around the one that makes the largest of these its largest multiple, each block taking the best
    of the three multiples next to its own.

    Args:
        weight: ``[g, o, k]``.
        bits: 2 to 4.
        importance: ``[g, k]``, not negative.
        block_size: inputs that share a multiple; all blocks are whole.
        min_scale: smallest scale of a channel allowed, ``[g, o]``.
        candidates: of each block's own scale.

    Raises:
        ValueError: more bits, of which a product with a multiple would not fit in 8.
    """
    if bits > MOST_BITS:
        raise ValueError(f"two-level scales are for weights of up to {MOST_BITS} bits, not {bits}")
    values, weights = blocked(weight, block_size), blocked(importance[:, None, :], block_size)
    step, sign = _own_scales(weight, values, weights, bits, block_size, importance, candidates)
    top = step.max(axis=2, keepdims=True) / np.float32(_LARGEST)  # [g, o, 1]
    turned = values * sign[..., None]
    best, scale, multiples = np.full(top.shape, np.inf, np.float32), top, np.ones(step.shape, np.int8)
    for factor in _FACTORS:
        tried = top * np.float32(factor)
        if min_scale is not None:
            tried = np.maximum(tried, min_scale[:, :, None])
        error, found = _multiples(turned, weights, bits, tried, step, sign)
        better = error < best
        best, scale = np.where(better, error, best), np.where(better, tried, scale)
        multiples = np.where(better, found, multiples)
    return Grid(bits, scale.astype(np.float32), np.zeros(scale.shape, np.int8), block_size, multiples * sign)


def _own_scales(
    weight: Floats,
    values: Floats,
    weights: Floats,
    bits: int,
    block_size: int,
    importance: Floats,
    candidates: int,
) -> tuple[Floats, Codes]:
    """The scale of every block on its own, and the sign its codes are better off with, ``[g, o, b]``."""
    found = []
    for sign in (1, -1):
        grid = search_grid(sign * weight, bits, importance, block_size=block_size, candidates=candidates)
        found.append((_error(sign * values, weights, bits, grid.scale), grid.scale))
    (error, scale), (error_turned, scale_turned) = found
    turned = error_turned < error
    return np.where(turned, scale_turned, scale), np.where(turned, -1, 1).astype(np.int8)


def _multiples(
    values: Floats, weights: Floats, bits: int, scale: Floats, wish: Floats, sign: Codes
) -> tuple[Floats, Codes]:
    """Error of each channel ``[g, o, 1]`` on ``scale``, and the multiples ``[g, o, b]`` that leave it."""
    most = np.where(sign < 0, -MULTIPLES[0], MULTIPLES[1])
    nearest = np.rint(wish / scale)
    least, chosen = np.full(wish.shape, np.inf, np.float32), np.ones(wish.shape, np.int8)
    for step in (-1, 0, 1):
        multiple = np.clip(nearest + step, 1, most).astype(np.int8)
        error = _error(values, weights, bits, scale * multiple)
        better = error < least
        least, chosen = np.where(better, error, least), np.where(better, multiple, chosen)
    return least.sum(axis=2, keepdims=True), chosen


def _error(values: Floats, weights: Floats, bits: int, scale: Floats) -> NDArray[np.float32]:
    """Weighted squared rounding error of every block, ``[g, o, b]``."""
    step = scale[..., None]
    difference = np.clip(np.rint(values / step), *code_range(bits)) * step - values
    return np.asarray((np.square(difference) * weights).sum(axis=3), np.float32)
