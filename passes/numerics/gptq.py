"""GPTQ: round one input at a time, and pass each error on to the inputs that are not rounded yet.

Frantar et al. 2022 (arXiv 2210.17323), algorithm 1, for all groups of a layer at once. With the upper factor
``H⁻¹ = UᵀU`` and inputs in order of falling ``diag H`` (act-order):

    q_j = Q(w_j),   e_j = (w_j - q_j) / U_jj,   w_l -= e_j U_jl  for l > j

The sweep may start from the asymmetric target (`passes.numerics.asymmetric_target`) instead of the weight. The grid is
fixed before the sweep. Afterwards, `passes.numerics.refine` moves single codes and the scale as long as the error
falls. Weights that are to be removed get the code of zero when their turn comes, and pass their errors on like the
others (`passes.numerics.pruning`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from passes.numerics.beam import beam_search, beam_work
from passes.numerics.grid import Codes, Floats, Grid, code_range
from passes.numerics.moments import Moments
from passes.numerics.refine import by_input, refine, subtract_outer
from passes.numerics.weight_grid import GridForm

__all__ = [
    "GptqResult",
    "damped",
    "gptq",
    "importance_of",
    "inverse_factor",
    "output_error",
    "output_errors",
    "permuted",
    "rounding_order",
    "sweep",
]

Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]

_BEAM_WORK = 200_000_000  # most multiplications per layer, about a second
_LARGE = 512  # inputs of a layer from which on float32 is enough, since it saves seconds
_SAFE_DAMPING = 0.01  # from here on, float32 is exact enough for a factor that is used in float32


@dataclass(frozen=True)
class GptqResult:
    """Codes and grid of one layer, and the damping that was used.

    Attributes:
        codes: ``[g, o, k]``.
        grid: Grid of the codes.
        damping: Share of the mean diagonal that was added. It is larger than requested if the Hessian was not positive
            definite with that.
        kept: Weights that were not removed, ``[g, o, k]``. The others have the code of zero. None: all were kept.
    """

    codes: Codes
    grid: Grid
    damping: float
    kept: Mask | None = None


def gptq(
    weight: Floats,
    moments: Moments,
    form: GridForm,
    *,
    min_scale: Floats | None = None,
    damping: float = 0.01,
    act_order: bool = True,
    rounds: int = 0,
    beam: int = 1,
    kept: Mask | None = None,
    lazy: int = 128,
) -> GptqResult:
    """Quantize ``weight`` ``[g, o, k]`` for the inputs that ``moments`` describe.

    Args:
        weight: Weight that the codes should approximate, ``[g, o, k]`` float32.
        moments: Moments of the layer's rows, with the same g and k.
        form: Form of the grid.
        min_scale: Smallest allowed scale, ``[g, o]``.
        damping: λ as a share of the mean of diag H.
        act_order: Whether inputs are rounded by falling diag H rather than in their own order.
        rounds: Rounds of refinement after the sweep.
        beam: Number of partial roundings that the sweep keeps, if the layer is small enough. 1 is GPTQ itself.
        kept: Weights that may differ from zero, ``[g, o, k]``. None: all.
        lazy: Number of inputs per block of deferred updates.

    Raises:
        numpy.linalg.LinAlgError: The Hessian is not finite, or not positive definite even with damping 1.
    """
    k = weight.shape[2]
    order = rounding_order(moments, act_order)
    undo = np.argsort(order, axis=1)
    columns = order[:, None, :]
    factor, damping = inverse_factor(permuted(moments.hessian, order), damping)
    upper = factor.astype(np.float32, order="C")
    grid = form.grid(weight, importance_of(upper, order), min_scale)
    target = np.take_along_axis(weight, columns, axis=2)
    allowed = None if kept is None else np.take_along_axis(kept, columns, axis=2)
    if beam > 1 and beam_work(weight.shape, beam) <= _BEAM_WORK:
        swept, grid = beam_search(target, upper, grid, order, beam=beam, min_scale=min_scale, kept=allowed)
    else:
        scale, zero_point = grid.spread(k)
        step, zero = np.take_along_axis(scale, columns, axis=2), np.take_along_axis(zero_point, columns, axis=2)
        swept = sweep(target, upper, step, zero, form.bits, allowed, lazy)
    codes = np.take_along_axis(swept, undo[:, None, :], axis=2)
    if rounds:
        curvature = damped(moments.hessian, damping)
        codes, grid = refine(weight, codes, grid, curvature, rounds=rounds, min_scale=min_scale, kept=kept)
    return GptqResult(codes, grid, damping, kept)


def damped(hessian: Floats, damping: float) -> Floats:
    """Return ``H + λI`` ``[g, k, k]``. λ is ``damping`` times the mean diagonal of each group."""
    damped = hessian.copy()
    index = np.arange(hessian.shape[1])
    mean = np.einsum("gkk->g", hessian) / hessian.shape[1]
    damped[:, index, index] += (damping * np.where(mean > 0, mean, 1))[:, None].astype(np.float32)
    return damped


def rounding_order(moments: Moments, act_order: bool) -> NDArray[np.intp]:
    """Return the inputs ``[g, k]`` in the order in which they are rounded: by falling diag H, or in their own order."""
    groups, k = moments.diagonal.shape
    return np.argsort(-moments.diagonal, axis=1, kind="stable") if act_order else np.tile(np.arange(k), (groups, 1))


def importance_of(upper: Floats, order: NDArray[np.intp]) -> Floats:
    """Return what a squared error at each input costs a sweep, ``1 / U_jj²`` ``[g, k]``, in the inputs' own order."""
    undo = np.argsort(order, axis=1)
    return np.take_along_axis(1 / np.square(np.einsum("gkk->gk", upper)), undo, axis=1)


def sweep(
    target: Floats,
    upper: Floats,
    scale: Floats,
    zero: Codes,
    bits: int,
    kept: Mask | None = None,
    lazy: int = 128,
) -> Codes:
    """Return the codes of inputs that are rounded in the order in which they are given.

    Args:
        target: ``[g, o, k]``.
        upper: Factor U of `inverse_factor`, ``[g, k, k]`` float32.
        scale: Scale of every weight, ``[g, o, k]``.
        zero: Zero point of every weight, ``[g, o, k]``.
        bits: Bits of the codes.
        kept: Weights that may differ from zero, ``[g, o, k]``. None: all.
        lazy: Number of inputs per block of deferred updates.
    """
    low, high = code_range(bits)
    k = target.shape[2]
    work = target.copy()
    codes = np.empty(target.shape, np.int8)
    for start in range(0, k, lazy):
        part = np.s_[:, :, start : min(start + lazy, k)]
        block, step, offset = (by_input(array[part]) for array in (work, scale, zero))  # [g, lazy, o]
        allowed = None if kept is None else by_input(kept[part])
        errors, chosen = np.empty_like(block), np.empty(block.shape, np.int8)
        factor = upper[:, part[2], part[2]]
        for j in range(block.shape[1]):
            column = block[:, j]
            code = np.rint(column / step[:, j])
            code += offset[:, j]
            np.minimum(np.maximum(code, low, out=code), high, out=code)
            if allowed is not None:
                code = np.where(allowed[:, j], code, offset[:, j])
            chosen[:, j] = code
            errors[:, j] = (column - (code - offset[:, j]) * step[:, j]) / factor[:, j, j, None]
            subtract_outer(block[:, j + 1 :], factor[:, j, j + 1 :], errors[:, j])
        codes[part] = chosen.transpose(0, 2, 1)
        stop = start + block.shape[1]
        work[:, :, stop:] -= errors.transpose(0, 2, 1) @ upper[:, start:stop, stop:]
    return codes


def inverse_factor(hessian: Floats, damping: float) -> tuple[Floats | Doubles, float]:
    """Return the upper U with ``(H + λI)⁻¹ = UᵀU`` for every group of ``[g, k, k]``, and the damping that was used.

    The Cholesky factor of the reversed matrix gives ``H = R Rᵀ`` with R upper, hence ``U = R⁻¹``. That is one
    factorisation; the textbook way takes two and an inverse. Dead inputs get the mean diagonal. If a factorisation
    fails, it is repeated with ten times the damping.

    Raises:
        numpy.linalg.LinAlgError: The Hessian is not positive definite at damping 1, or not finite.
    """
    k = hessian.shape[1]
    single = len(hessian) == 1 and k >= _LARGE and damping >= _SAFE_DAMPING
    matrix: Floats | Doubles = np.empty(hessian.shape, np.float32 if single else np.float64)
    matrix[...] = hessian[:, ::-1, ::-1]
    if not np.isfinite(matrix).all():
        raise np.linalg.LinAlgError("the Hessian holds NaN or Inf")
    index = np.arange(k)
    diagonal = matrix[:, index, index]  # [g, k]
    mean = diagonal.mean(axis=1, keepdims=True)
    mean = np.where(mean > 0, mean, 1.0)
    diagonal = np.where(diagonal <= 1e-8 * mean, mean, diagonal)
    while True:
        matrix[:, index, index] = diagonal + damping * mean
        try:
            return _inverse_of_lower_factor(matrix)[:, ::-1, ::-1], damping
        except np.linalg.LinAlgError:
            if damping >= 1:
                raise
            damping = min(max(damping * 10, 1e-3), 1.0)


def _inverse_of_lower_factor(matrix: Floats | Doubles) -> Floats | Doubles:
    """Return ``L⁻¹`` of ``matrix = L Lᵀ`` for every group.

    A single matrix may be large. It goes to LAPACK directly. The matrix is symmetric, so its transpose, which LAPACK
    reads without a copy, has the factor ``Lᵀ``.
    """
    if len(matrix) > 1:
        inverse: Doubles = np.linalg.inv(np.linalg.cholesky(matrix))
        return inverse
    single = matrix.dtype == np.float32
    upper, info = (lapack.spotrf if single else lapack.dpotrf)(matrix[0].T, lower=0)
    if info:
        raise np.linalg.LinAlgError(f"not positive definite at row {info}")
    upper, info = (lapack.strtri if single else lapack.dtrtri)(upper, lower=0, overwrite_c=1)
    if info:
        raise np.linalg.LinAlgError(f"triangular inverse failed at row {info}")
    found: Floats | Doubles = upper.T[None]
    return found


def output_error(weight: Floats, values: Floats, hessian: Floats) -> float:
    """Return the relative squared output error ``‖(W - Ŵ)X̂‖² / ‖WX̂‖²`` of a layer, from the Hessian alone."""
    return output_errors(weight, (values,), hessian)[0]


def output_errors(weight: Floats, several: Sequence[Floats], hessian: Floats) -> list[float]:
    """Return `output_error` of several dequantized weights."""
    signal = _power(weight, hessian)
    noises = [_power((weight - values).astype(np.float32), hessian) for values in several]
    return [max(noise, 0.0) / signal if signal > 0 else 0.0 for noise in noises]


def _power(weight: Floats, hessian: Floats) -> float:
    return float(np.einsum("gok,gok->", weight @ hessian, weight))


def permuted(matrix: Floats, order: NDArray[np.intp]) -> Floats:
    """Return ``[g, k, k]`` with rows and columns in another order, ``[g, k]``."""
    result = np.empty_like(matrix)
    for each, index, place in zip(matrix, order, result, strict=True):
        np.take(each.take(index, axis=0), index, axis=1, out=place, mode="clip")  # "raise" would go through a buffer
    return result
