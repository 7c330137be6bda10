"""Choose the scales of a weight grid before rounding, by a search for the least error.

The range of the weights is only the starting point (Nagel et al. 2021, §2.4, "MSE"). Candidates reach from that range
down to a quarter of it. At 2 and 3 bits they reach down to a twentieth, because wider grids would round most weights to
zero. Each output channel, or block, takes the candidate with the smallest weighted squared error

    Σ_k importance_k (Q(w_k) - w_k)²

The importance is the diagonal of the Hessian, or the conditional variances of GPTQ's sweep.
"""

import numpy as np

from passes.numerics.grid import Floats, Grid, code_range

__all__ = ["absmax_grid", "blocked", "search_grid"]

_LEAST_SHRINK, _LEAST_SHRINK_OF_FEW_BITS = 0.25, 0.05


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
    return _shrunk(blocked(weight, block_size), bits, 1.0, block_size, symmetric, min_scale)


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
    best = _shrunk(values, bits, 1.0, block_size, symmetric, min_scale)
    scale, zero = best.scale.copy(), best.zero_point.copy()
    low, high = code_range(bits)
    best_error = np.full(scale.shape, np.inf, np.float32)
    for shrink in (
        1.0,
        *np.linspace(1.1, _LEAST_SHRINK if bits > 3 else _LEAST_SHRINK_OF_FEW_BITS, candidates),
    ):  # the candidates of linspace do not include the full range itself
        grid = _shrunk(values, bits, float(shrink), block_size, symmetric, min_scale)
        step, offset = grid.scale[..., None], grid.zero_point[..., None].astype(np.float32)
        difference = (np.clip(np.rint(values / step) + offset, low, high) - offset) * step - values
        error = (np.square(difference) * weights).sum(axis=3)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        scale = np.where(better, grid.scale, scale)
        zero = np.where(better, grid.zero_point, zero)
    return Grid(bits, scale, zero, block_size)


def blocked(array: Floats, block_size: int | None) -> Floats:
    """Reshape ``[g, o, k]`` to ``[g, o, b, block_size]``. The last block is padded with zeros."""
    groups, outputs, k = array.shape
    size = block_size or k
    count = -(-k // size)
    padded = np.pad(array, ((0, 0), (0, 0), (0, count * size - k))) if count * size > k else array
    return padded.reshape(groups, outputs, count, size)


def _shrunk(
    values: Floats, bits: int, shrink: float, block_size: int | None, symmetric: bool, min_scale: Floats | None
) -> Grid:
    """Return the grid over ``shrink`` times the range of every block of ``values`` ``[g, o, b, block_size]``."""
    low_code, high_code = code_range(bits)
    low = np.minimum(values.min(axis=3), 0) * np.float32(shrink)
    high = np.maximum(values.max(axis=3), 0) * np.float32(shrink)
    smallest = np.full(values.shape[:2], np.finfo(np.float32).tiny * 1e6, np.float32)
    lower = smallest if min_scale is None else np.maximum(min_scale, smallest)
    scale = np.maximum(-low, high) / high_code if symmetric else (high - low) / (high_code - low_code)
    scale = np.maximum(scale, lower[:, :, None]).astype(np.float32)
    zero = np.zeros(scale.shape) if symmetric else np.clip(np.rint(low_code - low / scale), low_code, high_code)
    return Grid(bits, scale, zero.astype(np.int8), block_size)
