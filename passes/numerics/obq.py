"""OBQ: rounding one weight at a time, the cheapest first, and moving all others to make up for it.

Frantar & Alistarh 2022 (arXiv 2208.11580), §5 and algorithm 3, for every row of the weight on its own. Of the weights
not yet rounded, with the inverse Hessian of these alone,

    p = argmin (Q(w_p) - w_p)² / [H⁻¹]_pp,   w -= (w_p - Q(w_p)) / [H⁻¹]_pp H⁻¹_:p   (equation 7)
    H⁻¹ -= H⁻¹_:p H⁻¹_p: / [H⁻¹]_pp                                                  (lemma 1)

and a weight that has been pushed off the grid goes first (§5, "quantization outliers"). GPTQ is the same with one order
for all rows, which is what makes it fast: a row of k weights takes k³ operations here.
"""

import numpy as np
from numpy.typing import NDArray

from passes.numerics.grid import Codes, Floats, Grid, code_range

__all__ = ["obq"]

Doubles = NDArray[np.float64]

_WORKING_SET = 1 << 24  # numbers of the inverse Hessians that are downdated together


def obq(weight: Floats, hessian: Floats, grid: Grid) -> Codes:
    """Codes ``[g, o, k]`` of ``weight`` on ``grid``.

    Args:
        weight: ``[g, o, k]``.
        hessian: ``[g, k, k]``, positive definite.
        grid: fixed.

    Raises:
        numpy.linalg.LinAlgError: a Hessian is not positive definite.
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
    """Rows ``[r, k]``, all of one Hessian; the same number of steps for each, on weights of its own choice."""
    count, k = weight.shape
    work, step, offset = weight.astype(np.float64), scale.astype(np.float64), zero.astype(np.float64)
    size = np.abs(step)  # a multiple of a channel's scale may be negative
    inverses = np.repeat(inverse[None], count, axis=0)  # [r, k, k]
    codes = np.empty(weight.shape, np.int8)
    open_ = np.ones(weight.shape, np.bool_)
    each = np.arange(count)
    for _ in range(k):
        code = np.clip(np.rint(work / step) + offset, *codes_within)
        error = work - (code - offset) * step  # [r, k]
        diagonal = np.where(open_, np.einsum("rkk->rk", inverses), 1.0)
        cost = np.where(open_, np.square(error) / diagonal, np.inf)
        off = open_ & (np.abs(error) > 0.5000001 * size)
        chosen = np.where(off.any(axis=1), np.where(off, np.abs(error) / size, -1).argmax(axis=1), cost.argmin(axis=1))
        codes[each, chosen] = code[each, chosen]
        column = inverses[each, :, chosen]  # [r, k]
        pivot = diagonal[each, chosen]
        work -= (error[each, chosen] / pivot)[:, None] * column
        open_[each, chosen] = False
        inverses -= column[:, :, None] * (column / pivot[:, None])[:, None, :]
    return codes
