"""OBQ: round one weight at a time, the cheapest first, and adjust all others to compensate.

Frantar & Alistarh 2022 (arXiv 2208.11580), §5 and algorithm 3, applied to every row of the weight separately. p is the
next weight to round among those not rounded yet. H⁻¹ is the inverse Hessian of these alone:

    p = argmin (Q(w_p) - w_p)² / [H⁻¹]_pp,   w -= (w_p - Q(w_p)) / [H⁻¹]_pp H⁻¹_:p   (equation 7)
    H⁻¹ -= H⁻¹_:p H⁻¹_p: / [H⁻¹]_pp                                                  (lemma 1)

A weight that was pushed off the grid is rounded before all others (§5, "quantization outliers"). GPTQ is the same with
one order for all rows, which makes it fast. OBQ takes k³ operations for each row of k weights.
"""

import numpy as np
from numpy.typing import NDArray

from passes.numerics.grid import Codes, Floats, Grid, code_range

__all__ = ["obq"]

Doubles = NDArray[np.float64]

_WORKING_SET = 1 << 24  # most elements of the inverse Hessians that are updated together


def obq(weight: Floats, hessian: Floats, grid: Grid) -> Codes:
    """Return codes ``[g, o, k]`` of ``weight`` on ``grid``.

    Args:
        weight: ``[g, o, k]``.
        hessian: ``[g, k, k]``, positive definite.
        grid: Grid of the codes. It does not change.

    Raises:
        numpy.linalg.LinAlgError: The Hessian of a group is not positive definite.
    """
    k = weight.shape[2]
    rows = max(1, _WORKING_SET // (k * k))
    scale, zero = grid.spread(k)
    codes = np.empty(weight.shape, np.int8)
    for group, matrix in enumerate(hessian.astype(np.float64)):
        inverse_root = np.linalg.inv(np.linalg.cholesky(matrix))
        inverse = inverse_root.T @ inverse_root
        for start in range(0, weight.shape[1], rows):
            part = np.s_[group, start : start + rows]
            codes[part] = _greedy(weight[part], inverse, scale[part], zero[part], code_range(grid.bits))
    return codes


def _greedy(weight: Floats, inverse: Doubles, scale: Floats, zero: Codes, codes_within: tuple[int, int]) -> Codes:
    """Round rows ``[r, k]`` that share a Hessian. In each step, every row rounds the weight that it chooses itself."""
    count, k = weight.shape
    work, step, offset = weight.astype(np.float64), scale.astype(np.float64), zero.astype(np.float64)
    size = np.abs(step)  # a multiple of a channel's scale may be negative
    inverses = np.repeat(inverse[None], count, axis=0)  # [r, k, k]
    codes = np.empty(weight.shape, np.int8)
    unrounded = np.ones(weight.shape, np.bool_)
    all_rows = np.arange(count)
    for _ in range(k):
        code = np.clip(np.rint(work / step) + offset, *codes_within)
        error = work - (code - offset) * step  # [r, k]
        diagonal = np.where(unrounded, np.einsum("rkk->rk", inverses), 1.0)
        cost = np.where(unrounded, np.square(error) / diagonal, np.inf)
        off = unrounded & (np.abs(error) > 0.5000001 * size)
        chosen = np.where(off.any(axis=1), np.where(off, np.abs(error) / size, -1).argmax(axis=1), cost.argmin(axis=1))
        codes[all_rows, chosen] = code[all_rows, chosen]
        column = inverses[all_rows, :, chosen]  # [r, k]
        pivot = diagonal[all_rows, chosen]
        work -= (error[all_rows, chosen] / pivot)[:, None] * column
        unrounded[all_rows, chosen] = False
        inverses -= column[:, :, None] * (column / pivot[:, None])[:, None, :]
    return codes
