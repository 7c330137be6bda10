"""GPFQ: greedy path following. Round one input at a time, so that the error of the output so far is least.

Lybrand & Saab 2021 (arXiv 2010.13758); Zhang, Zhou & Saab 2023 (arXiv 2201.11113). X_t is input t of the float network,
X̂_t that of the quantized one, and u the error of the output so far:

    q_t = Q(<X̂_t, u + w_t X_t> / ‖X̂_t‖²),   u += w_t X_t - q_t X̂_t

Unlike GPTQ, it leaves the inputs that follow as they are, so it inverts nothing and needs no damping. Inner products
with X̂_t are all that is used of u. With ``H = X̂ᵀX̂`` and ``C = (X - X̂)ᵀX̂`` the step is

    q_t = Q(w_t + (Σ_{s≤t} w_s C_st + Σ_{s<t} (w_s - q_s) H_st) / H_tt)

A tensor S that is added to the layer's output starts the path: u is ``S - Ŝ`` instead of 0.
"""

import numpy as np
from numpy.typing import NDArray

from passes.numerics.gptq import permuted
from passes.numerics.grid import Codes, Floats, Grid, code_range
from passes.numerics.moments import Moments

__all__ = ["gpfq"]


def gpfq(weight: Floats, moments: Moments, grid: Grid, order: NDArray[np.intp], *, lazy: int = 128) -> Codes:
    """Return codes ``[g, o, k]`` of ``weight`` on ``grid``.

    Args:
        weight: ``[g, o, k]``.
        moments: Moments of the layer's rows, with the same g and k. Without `cross`, both networks have the same inputs
            and nothing is added to the output.
        grid: Grid of the codes. It does not change.
        order: Order in which the inputs are rounded, ``[g, k]``.
        lazy: Number of inputs per block of deferred updates.

    Raises:
        numpy.linalg.LinAlgError: The moments are not finite.
    """
    k = weight.shape[2]
    columns = order[:, None, :]
    hessian = permuted(moments.hessian, order)
    scale, zero = grid.spread(k)
    scale, zero = np.take_along_axis(scale, columns, axis=2), np.take_along_axis(zero, columns, axis=2)
    exact = np.take_along_axis(weight, columns, axis=2)
    pull = _pull(exact, moments, order)
    if not (np.isfinite(hessian).all() and np.isfinite(pull).all()):
        raise np.linalg.LinAlgError("the moments hold NaN or Inf")
    low, high = code_range(grid.bits)
    codes = np.empty(weight.shape, np.int8)
    for start in range(0, k, lazy):
        stop = min(start + lazy, k)
        local = pull[:, :, start:stop].copy()
        errors = np.empty_like(local)
        block = hessian[:, start:stop, start:stop]
        for j in range(stop - start):
            step, offset, value = scale[:, :, start + j], zero[:, :, start + j], exact[:, :, start + j]
            norm = block[:, j, j, None]
            ideal = value + np.divide(local[:, :, j], norm, out=np.zeros_like(value), where=norm > 0)  # 0: a dead input
            code = np.clip(np.rint(ideal / step) + offset, low, high)
            codes[:, :, start + j] = code
            errors[:, :, j] = value - (code - offset) * step
            local[:, :, j + 1 :] += errors[:, :, j, None] * block[:, None, j, j + 1 :]
        pull[:, :, stop:] += errors @ hessian[:, start:stop, stop:]
    undo = np.argsort(order, axis=1)[:, None, :]
    return np.take_along_axis(codes, undo, axis=2)


def _pull(weight: Floats, moments: Moments, order: NDArray[np.intp]) -> Floats:
    """Return ``Σ_{s≤t} w_s C_st`` and what the added tensor starts with, ``[g, o, k]``. ``weight`` is permuted."""
    if moments.cross is None:
        return np.zeros_like(weight)
    pull: Floats = weight @ np.triu(permuted(moments.cross, order))
    return pull if moments.residual is None else pull + np.take_along_axis(moments.residual, order[:, None, :], axis=2)
