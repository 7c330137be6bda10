"""Coordinate descent from a rounded weight: move one code at a time and refit the scale, while the output error falls.

For a row of the weight with target w and values v, the error is ``(w - v) H (w - v)ᵀ``. With all other inputs fixed,
its minimum along input j is at ``v_j + ((w - v) H)_j / H_jj``, rounded to the grid. With fixed codes c, the best scale
is ``(c H wᵀ) / (c H cᵀ)``. Neither step can raise the error (coordinate descent; Nair & Suggala 2024, arXiv 2411.17525,
for codes).
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas

from passes.numerics.grid import Codes, Floats, Grid, code_range

__all__ = ["by_input", "refine", "subtract_outer"]


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
    if not rounds:
        return codes, grid
    if not grid.per_channel:
        pull: Floats = np.asarray((target - grid.values(codes)) @ hessian, np.float32)  # [g, o, k]
        for _ in range(rounds):
            new_codes, pull = _descend(codes, grid, pull, hessian, lazy, kept)
            if np.array_equal(new_codes, codes):
                break
            codes = new_codes
        return codes, grid
    # Values are scale x levels. So both products with the Hessian stay known while scales and levels change.
    aim: Floats = target @ hessian
    weighted: Floats = _levels(codes, grid) @ hessian
    for _ in range(rounds):
        grid = _refit(target, _levels(codes, grid), weighted, grid, min_scale)
        new_codes, pull = _descend(codes, grid, aim - grid.scale * weighted, hessian, lazy, kept)
        if np.array_equal(new_codes, codes):
            break
        codes, weighted = new_codes, (aim - pull) / grid.scale
    return codes, grid


def _levels(codes: Codes, grid: Grid) -> Floats:
    """Return what a channel's one scale is multiplied by, ``[g, o, k]``."""
    return (grid.integers(codes).astype(np.int16) - grid.zero_point).astype(np.float32)


def _refit(target: Floats, levels: Floats, weighted: Floats, grid: Grid, min_scale: Floats | None) -> Grid:
    """Return the grid with every channel's best scale for the given levels. ``weighted`` is ``levels @ hessian``."""
    along = np.einsum("gok,gok->go", weighted, target)
    length = np.einsum("gok,gok->go", weighted, levels)
    fitted = np.divide(along, length, out=grid.scale[:, :, 0].copy(), where=length > 0)
    usable = fitted > (0 if min_scale is None else min_scale)
    return replace(grid, scale=np.where(usable, fitted, grid.scale[:, :, 0])[:, :, None].astype(np.float32))


def _descend(
    codes: Codes, grid: Grid, pull: Floats, hessian: Floats, lazy: int, kept: NDArray[np.bool_] | None
) -> tuple[Codes, Floats]:
    """Move the code of every input once. ``pull`` is (target - values) @ hessian; the new one is returned too."""
    low, high = code_range(grid.bits)
    k = codes.shape[2]
    scale, _ = grid.spread(k)
    codes = codes.copy()
    for start in range(0, k, lazy):
        part = np.s_[:, :, start : min(start + lazy, k)]
        local, step, old = (by_input(array[part]) for array in (pull, scale, codes))  # [g, lazy, o]
        movable = None if kept is None else by_input(kept[part])
        steps, moved = np.empty_like(local), old.copy()
        factor = hessian[:, part[2], part[2]]
        for j in range(local.shape[1]):
            now = old[:, j]
            new = local[:, j] / (factor[:, j, j, None] * step[:, j])
            new += now
            np.rint(new, out=new)
            np.minimum(np.maximum(new, low, out=new), high, out=new)
            if movable is not None:
                new = np.where(movable[:, j], new, now)
            moved[:, j] = new
            steps[:, j] = (new - now) * step[:, j]
            subtract_outer(local[:, j + 1 :], factor[:, j, j + 1 :], steps[:, j])
        codes[part] = moved.transpose(0, 2, 1)
        pull -= steps.transpose(0, 2, 1) @ hessian[:, part[2]]
    return codes, pull


def by_input(array: NDArray[Any]) -> NDArray[Any]:
    """Copy ``[g, o, k]`` to ``[g, k, o]``. What belongs to one input is then contiguous. Integers become float32."""
    return np.array(array.transpose(0, 2, 1), None if array.dtype == np.bool_ else np.float32, order="C")


def subtract_outer(rows: Floats, left: Floats, right: Floats) -> None:
    """Subtract ``left rightᵀ`` from ``rows`` ``[g, n, o]`` in place. They are ``[g, n]`` and ``[g, o]``."""
    if len(rows) > 1:
        rows -= left[:, :, None] * right[:, None, :]
    elif rows.size:
        blas.sger(-1, right[0], left[0], a=rows[0].T, overwrite_a=1)
