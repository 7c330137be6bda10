"""Descent from a rounded weight: move one code at a time, refit the scale, as long as the output error falls.

For a row of the weight with target w and values v the error is ``(w - v) H (w - v)ᵀ``. With everything else fixed its
least value along input j is at ``v_j + ((w - v) H)_j / H_jj``, rounded to the grid; with the codes fixed the best scale
is ``(c H wᵀ) / (c H cᵀ)``. Neither step can raise the error (coordinate descent; Nair & Suggala 2024, arXiv 2411.17525,
for codes).
"""

from dataclasses import replace

import numpy as np

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
    lazy: int = 128,
) -> tuple[Codes, Grid]:
    """Codes and grid with an error no larger than those given.

    Args:
        target: ``[g, o, k]``.
        codes: ``[g, o, k]`` on ``grid``.
        grid: where the codes start; its scale moves only where a channel has one float.
        hessian: ``[g, k, k]``, positive definite.
        rounds: of scale and codes.
        min_scale: smallest scale allowed, ``[g, o]``.
        lazy: inputs per block of deferred updates.
    """
    for _ in range(rounds):
        if grid.per_channel:
            grid = _refit(target, codes, grid, hessian, min_scale)
        moved = _descend(target, codes, grid, hessian, lazy)
        if np.array_equal(moved, codes):
            break
        codes = moved
    return codes, grid


def _refit(target: Floats, codes: Codes, grid: Grid, hessian: Floats, min_scale: Floats | None) -> Grid:
    """The grid with every channel's best scale for the codes as they are."""
    levels = (grid.integers(codes).astype(np.int16) - grid.zero_point).astype(np.float32)  # [g, o, k]
    weighted = levels @ hessian
    along = (weighted * target).sum(axis=2)  # [g, o]
    length = (weighted * levels).sum(axis=2)
    fitted = np.divide(along, length, out=grid.scale[:, :, 0].copy(), where=length > 0)
    usable = fitted > (0 if min_scale is None else min_scale)
    return replace(grid, scale=np.where(usable, fitted, grid.scale[:, :, 0])[:, :, None].astype(np.float32))


def _descend(target: Floats, codes: Codes, grid: Grid, hessian: Floats, lazy: int) -> Codes:
    """One pass over all inputs."""
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
            wish = (old - offset) * step + local[:, :, j] / factor[:, j, j, None]
            new = np.clip(np.rint(wish / step) + offset, low, high)
            moved = ((new - old) * step).astype(np.float32)
            codes[:, :, start + j] = new
            steps[:, :, j] = moved
            local -= moved[:, :, None] * factor[:, None, j]
        pull -= steps @ hessian[:, start:stop]
    return codes
