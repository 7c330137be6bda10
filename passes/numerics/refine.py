"""Coordinate descent from a rounded weight: move one code at a time and refit the scale, while the output error falls.

For a row of the weight with target w and values v, the error is ``(w - v) H (w - v)ᵀ``. With all other inputs fixed,
its minimum along input j is at ``v_j + ((w - v) H)_j / H_jj``, rounded to the grid. With fixed codes c, the best scale
is ``(c H wᵀ) / (c H cᵀ)``. Neither step can raise the error (coordinate descent; Nair & Suggala 2024, arXiv 2411.17525,
for codes).
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from passes.numerics.grid import Codes, Floats, Grid, code_range

__all__ = ["refine"]


def refine(
    target: Floats,
    codes: Codes,
    grid: Grid,
    hessian: Floats,
    *,
    rounds: int,
    min_scale: Floats | None = None,
    kept: NDArray[np.bool_] | None = None,
    lazy: int = 128,
) -> tuple[Codes, Grid]:
    """Return codes and a grid whose error is at most that of the given ones.

    Args:
        target: Weight that the codes should approximate, ``[g, o, k]``.
        codes: Codes to start from, ``[g, o, k]`` on ``grid``.
        grid: Grid to start from. Its scales change only if each channel has one float scale.
        hessian: ``[g, k, k]``, positive definite.
        rounds: Most rounds of refitting the scale and moving the codes. It stops early when no code moves.
        min_scale: Smallest allowed scale, ``[g, o]``.
        kept: Weights whose codes may move, ``[g, o, k]``. None: all.
        lazy: Number of inputs per block of deferred updates.
    """
    for _ in range(rounds):
        if grid.per_channel:
            grid = _refit(target, codes, grid, hessian, min_scale)
        new_codes = _descend(target, codes, grid, hessian, lazy, kept)
        if np.array_equal(new_codes, codes):
            break
        codes = new_codes
    return codes, grid


def _refit(target: Floats, codes: Codes, grid: Grid, hessian: Floats, min_scale: Floats | None) -> Grid:
    """Return the grid with every channel's best scale for the given codes."""
    levels = (grid.integers(codes).astype(np.int16) - grid.zero_point).astype(np.float32)  # [g, o, k]
    weighted = levels @ hessian
    along = (weighted * target).sum(axis=2)  # [g, o]
    length = (weighted * levels).sum(axis=2)
    fitted = np.divide(along, length, out=grid.scale[:, :, 0].copy(), where=length > 0)
    usable = fitted > (0 if min_scale is None else min_scale)
    return replace(grid, scale=np.where(usable, fitted, grid.scale[:, :, 0])[:, :, None].astype(np.float32))


def _descend(
    target: Floats, codes: Codes, grid: Grid, hessian: Floats, lazy: int, kept: NDArray[np.bool_] | None
) -> Codes:
    """Move the code of every input once."""
    low, high = code_range(grid.bits)
    k = target.shape[2]
    scale, zero = grid.spread(k)
    codes = codes.copy()
    pull = (target - grid.values(codes)) @ hessian  # [g, o, k]
    for start in range(0, k, lazy):
        stop = min(start + lazy, k)
        local = pull[:, :, start:stop].copy()
        steps = np.empty_like(local)
        factor = hessian[:, start:stop, start:stop]
        for j in range(stop - start):
            step, offset, old = scale[:, :, start + j], zero[:, :, start + j], codes[:, :, start + j].astype(np.int16)
            ideal = (old - offset) * step + local[:, :, j] / factor[:, j, j, None]
            new = np.clip(np.rint(ideal / step) + offset, low, high)
            if kept is not None:
                new = np.where(kept[:, :, start + j], new, old)
            change = ((new - old) * step).astype(np.float32)
            codes[:, :, start + j] = new
            steps[:, :, j] = change
            local -= change[:, :, None] * factor[:, None, j]
        pull -= steps @ hessian[:, start:stop]
    return codes
