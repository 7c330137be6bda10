"""Sums of neighbouring weights, for kernels that add two products of 8 bits in 16 bits (x86 without VNNI).

The kernel reads the inputs of a convolution with channels last. It adds the products of inputs 0 and 1, 2 and 3, and so
on. Inputs are never negative, so two products saturate only if their weights have the same sign. A depthwise kernel
multiplies one by one.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["largest_sums", "limited"]


def largest_sums(weight: NDArray[np.generic], kernel: Sequence[int]) -> NDArray[np.float64]:
    """Return the largest absolute sum of two neighbours for every output channel, ``[g, o]``.

    Args:
        weight: Weight or codes, ``[g, o, k]``.
        kernel: Sizes of the kernel of a convolution. Empty for a matrix product.
    """
    groups, outputs, _ = weight.shape
    if _is_depthwise(weight.shape, kernel):
        return np.zeros((groups, outputs))
    pairs = _neighbours(weight.astype(np.float64), kernel)
    sums: NDArray[np.float64] = np.abs(pairs.sum(axis=3)).max(axis=2)
    return sums


def limited(codes: NDArray[np.int8], kernel: Sequence[int], most: int) -> NDArray[np.int8]:
    """Return codes whose sums of neighbours are at most ``most``. The larger code of a pair gives way.

    Args:
        codes: Codes, ``[g, o, k]``.
        kernel: As in `largest_sums`.
        most: Largest sum.
    """
    if (largest_sums(codes, kernel) <= most).all():
        return codes
    pairs = _neighbours(codes.astype(np.int64), kernel)
    sums = pairs.sum(axis=3)
    excess = np.sign(sums) * np.maximum(np.abs(sums) - most, 0)
    larger = np.abs(pairs).argmax(axis=3)
    np.put_along_axis(pairs, larger[..., None], np.take_along_axis(pairs, larger[..., None], 3) - excess[..., None], 3)
    groups, outputs, k = codes.shape
    taps = math.prod(kernel)
    rows = pairs.reshape(groups, outputs, -1)[:, :, :k]
    return (
        np.ascontiguousarray(rows.reshape(groups, outputs, taps, k // taps).swapaxes(2, 3))
        .reshape(codes.shape)
        .astype(np.int8)
    )


def _is_depthwise(shape: Sequence[int], kernel: Sequence[int]) -> bool:
    """Whether every group of a convolution has one input and one output channel."""
    return bool(kernel) and shape[1] == 1 and shape[2] == math.prod(kernel)


def _neighbours(weight: NDArray[np.generic], kernel: Sequence[int]) -> NDArray[np.generic]:
    """The inputs in the kernel's order, in pairs ``[g, o, pairs, 2]``. The last pair may have a zero."""
    groups, outputs, k = weight.shape
    taps = math.prod(kernel)
    rows = weight.reshape(groups, outputs, k // taps, taps).swapaxes(2, 3).reshape(groups, outputs, k)
    return np.pad(rows, ((0, 0), (0, 0), (0, k % 2))).reshape(groups, outputs, -1, 2)
