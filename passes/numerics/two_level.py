"""Two-level scales: the scale of a block is an integer multiple of its channel's, so that integer kernels can use it.

Dai et al. 2021 (VS-Quant, arXiv 2102.04503, §4.2): a channel has a float scale s, and every block of its inputs an
integer m, so that a weight is ``s (m q)``. The product ``m q`` fits into 8 bits. Once a file is loaded, the kernel
reads plain 8-bit codes with a scale per channel.

A multiple has 4 bits, like ONNX's int4 type, and is signed. The sign helps because codes are not symmetric: at 2 bits
they reach from -2 to 1, so a block whose largest weight is positive fits better with its sign flipped. At up to 4 bits
``|m q|`` is at most 64. Kernels without VNNI do not saturate at that.
"""

import numpy as np
from numpy.typing import NDArray

from passes.numerics.grid import MULTIPLES, Codes, Floats, Grid, code_range
from passes.numerics.weight_scale_search import blocked, search_grid

__all__ = ["MOST_BITS", "equal_block", "two_level_grid"]

MOST_BITS = 4
"""Most bits of a code whose product with a multiple fits into 8 bits."""

_FACTORS = tuple(float(factor) for factor in np.geomspace(0.7, 1.15, 16))
_LARGEST = -MULTIPLES[0]
_MOST_MULTIPLES = 12_288  # most multiples per layer
_CANDIDATES, _CANDIDATES_OF_4_BITS = 40, 16  # scales tried for a block; at 3 bits, fewer than 40 lose 0.1 dB
_SMALL_BLOCK = 32  # inputs of a block whose largest weight tells its sign
_CHUNK = 1 << 16  # weights that are rounded together; they stay in the processor's cache
_SMALLEST = 3  # fewest inputs per block: with a multiple per weight, 4 bits would take as much as 8


def equal_block(channels: int, k: int, wanted: int, fewest: int = 0) -> int | None:
    """Return the block size nearest to ``wanted`` that divides k inputs into several whole blocks, or None.

    A layer has at most 12,288 blocks, whose multiples take 6 kB. So large layers get larger blocks. In blocks of 16,
    the multiples would add a sixteenth to any file, and the error of a layer of millions of weights matters least. The
    size is at most twice ``wanted``, or twice the smallest size that this limit allows.

    Args:
        channels: Number of output channels of the layer.
        k: Number of inputs of each channel.
        wanted: Desired number of inputs per block.
        fewest: Desired smallest number of blocks in the layer. Small layers get smaller blocks to reach it, but none of
            fewer than 3 inputs.

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
    candidates: int | None = None,
) -> Grid:
    """Return the two-level grid with the least importance-weighted squared rounding error.

    First, every block gets the scale and the sign that fit it best (`passes.numerics.weight_scale_search`). Then
    several scales of the channel are tried. They lie around the one for which the channel's largest block scale is the
    largest multiple. For each of them, every block takes the best of the three multiples around its own scale.

    Args:
        weight: ``[g, o, k]``.
        bits: Bits per code, 2 to 4.
        importance: Cost of a squared error at each input, ``[g, k]``, not negative.
        block_size: Number of inputs that share a multiple. It divides k.
        min_scale: Smallest allowed scale of a channel, ``[g, o]``.
        candidates: Number of scales tried for each block. None: 16 for 4 bits, 40 for fewer.

    Raises:
        ValueError: ``bits`` is more than 4, so that products with a multiple would not fit into 8 bits.
    """
    if bits > MOST_BITS:
        raise ValueError(f"two-level scales are for weights of up to {MOST_BITS} bits, not {bits}")
    values, weights = blocked(weight, block_size), blocked(importance[:, None, :], block_size)
    tries = candidates or (_CANDIDATES_OF_4_BITS if bits == MOST_BITS else _CANDIDATES)
    step, sign = _own_scales(weight, values, weights, bits, block_size, importance, tries)
    top = step.max(axis=2, keepdims=True) / np.float32(_LARGEST)  # [g, o, 1]
    flipped = values * sign[..., None]
    best, scale, multiples = np.full(top.shape, np.inf, np.float32), top, np.ones(step.shape, np.int8)
    for factor in _FACTORS:
        tried = top * np.float32(factor)
        if min_scale is not None:
            tried = np.maximum(tried, min_scale[:, :, None])
        error, new_multiples = _multiples(flipped, weights, bits, tried, step, sign)
        better = error < best
        best, scale = np.where(better, error, best), np.where(better, tried, scale)
        multiples = np.where(better, new_multiples, multiples)
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
    """Return the best scale of every block by itself, and the sign with the smaller error, both ``[g, o, b]``."""
    if bits == MOST_BITS and block_size <= _SMALL_BLOCK:
        # The largest weight decides, as there is one more negative code. It is better than the sign of least error,
        # because the multiples have another range for each sign.
        by_largest = np.where(values.max(axis=3) > -values.min(axis=3), -1, 1).astype(np.int8)
        flipped_weight = weight * np.repeat(by_largest, block_size, axis=2)[:, :, : weight.shape[2]]
        return search_grid(
            flipped_weight, bits, importance, block_size=block_size, candidates=candidates
        ).scale, by_largest
    by_sign = []
    for sign in (1, -1):
        grid = search_grid(sign * weight, bits, importance, block_size=block_size, candidates=candidates)
        by_sign.append((_error(sign * values, weights, bits, grid.scale), grid.scale))
    (error, scale), (error_flipped, scale_flipped) = by_sign
    flipped = error_flipped < error
    return np.where(flipped, scale_flipped, scale), np.where(flipped, -1, 1).astype(np.int8)


def _multiples(
    values: Floats, weights: Floats, bits: int, scale: Floats, block_scale: Floats, sign: Codes
) -> tuple[Floats, Codes]:
    """Return each channel's smallest error ``[g, o, 1]`` with ``scale``, and its multiples ``[g, o, b]``.

    ``block_scale`` and ``sign`` ``[g, o, b]`` are the best scale and sign of every block by itself.
    """
    most = np.where(sign < 0, -MULTIPLES[0], MULTIPLES[1])
    nearest = np.rint(block_scale / scale)
    least, chosen = np.full(block_scale.shape, np.inf, np.float32), np.ones(block_scale.shape, np.int8)
    for step in (-1, 0, 1):
        multiple = np.clip(nearest + step, 1, most).astype(np.int8)
        error = _error(values, weights, bits, scale * multiple)
        better = error < least
        least, chosen = np.where(better, error, least), np.where(better, multiple, chosen)
    return least.sum(axis=2, keepdims=True), chosen


def _error(values: Floats, weights: Floats, bits: int, scale: Floats) -> NDArray[np.float32]:
    """Return the weighted squared rounding error of every block, ``[g, o, b]``. ``values`` are ``[g, o, b, block]``."""
    groups, outputs, blocks, size = values.shape
    rows, steps = values.reshape(-1, blocks, size), scale.reshape(-1, blocks, 1)
    costs = weights[:, 0]  # [g, b, block]
    result = np.empty((len(rows), blocks), np.float32)
    count = max(1, _CHUNK // max(1, blocks * size))
    for start in range(0, len(rows), count):
        exact, step = rows[start : start + count], steps[start : start + count]
        cost = costs if groups == 1 else costs[np.arange(start, start + len(exact)) // outputs]
        error = exact / step
        np.rint(error, out=error)
        np.clip(error, *code_range(bits), out=error)
        error *= step
        error -= exact
        np.square(error, out=error)
        error *= cost
        error.sum(axis=2, out=result[start : start + count])
    return result.reshape(scale.shape)
