"""The asymmetric target: the weight that a layer's codes should approximate when the layers before it have errors.

X are the rows of the float network and X̂ those of the quantized one. The target is the least-squares solution for the
quantized inputs,

    W* = W + Δ,   Δ = W (X - X̂)ᵀX̂ (X̂ᵀX̂ + λI)⁻¹

(GPTAQ, Li et al. 2025, arXiv 2504.02692). At the end of a residual block, a tensor S is added to the layer's output.
The layer can then compensate for the error of S too: ``(S - Ŝ)ᵀX̂`` is added to ``W (X - X̂)ᵀX̂``.

Each row of Δ has as many free parameters as the layer has inputs. With few rows of X̂ (a classifier has one per image),
Δ overfits to the calibration images. On rows that were held out, the remaining error is

    ‖E - ΔX̂‖² = const - 2 <Δ, EᵀX̂> + <Δ X̂ᵀX̂, Δ>,   E = W(X - X̂) + S - Ŝ

It follows from the moments of those rows in closed form. So λ is chosen by two-fold cross-validation, without storing
activations.
"""

import functools
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from scipy.linalg import lapack

from passes.numerics.grid import Floats
from passes.numerics.moments import Moments

__all__ = ["HELD_OUT_DAMPINGS", "asymmetric_target", "held_out_damping", "projection"]

HELD_OUT_DAMPINGS = (0.01, 0.1, 1.0, 10.0)
_FEW_ROWS_PER_INPUT = 8  # of a half; with fewer, the largest λ is nearly always best, so the search starts there
_JUDGED = 64  # number of output channels on which λ is chosen
_MOST_INPUTS_OF_TWO_FOLDS = 512  # a layer with more is judged on one half only, since each λ takes a factorisation


def asymmetric_target(weight: Floats, moments: Moments, damping: float | None = None) -> Floats:
    """Return W* ``[g, o, k]``.

    It is the weight itself if both networks have the same inputs, or if every damping does harm on held-out halves.

    Args:
        weight: Weight of the layer, ``[g, o, k]`` float32.
        moments: Moments of the layer's inputs, with `cross`.
        damping: λ as a share of the mean of diag H. None takes the best of `HELD_OUT_DAMPINGS` on held-out halves, or
            0.01 without halves. If the Hessian is not positive definite with it, the next one of the list is taken.

    Raises:
        numpy.linalg.LinAlgError: The Hessian is not positive definite with any allowed damping.
    """
    if not moments.has_errors:
        return weight
    right = projection(weight, moments)
    if damping is not None:
        return weight + _solve(moments.hessian, right, damping)
    least = 0.01 if moments.halves is None else held_out_damping(weight, moments.halves, HELD_OUT_DAMPINGS)
    if least == np.inf:
        return weight
    for candidate in (value for value in HELD_OUT_DAMPINGS if value >= least):
        with suppress(np.linalg.LinAlgError):
            return weight + _solve(moments.hessian, right, candidate)
    raise np.linalg.LinAlgError(f"not positive definite with damping {HELD_OUT_DAMPINGS[-1]:g}")


def held_out_damping(weight: Floats, halves: tuple[Moments, Moments], candidates: Sequence[float]) -> float:
    """Return the damping with the smallest error on the held-out half, or inf if the weight itself has a smaller one.

    A candidate is skipped if the Hessian of a half is not positive definite with it.

    Args:
        weight: Weight of the layer, ``[g, o, k]``.
        halves: Moments of two disjoint sets of images, with `cross`.
        candidates: Dampings to try, in rising order.

    Raises:
        ValueError: There are no candidates, or the moments have no `cross`.
        numpy.linalg.LinAlgError: The Hessians are not positive definite with any candidate.
    """
    if not candidates:
        raise ValueError("no candidates for the damping")
    every = -(-weight.shape[1] // _JUDGED)  # a sample of the channels: all of them share one λ
    judged = weight[:, ::every]
    pulls = [projection(judged, half, every) for half in halves]
    folds = ((0, 1), (1, 0)) if weight.shape[2] <= _MOST_INPUTS_OF_TWO_FOLDS else ((0, 1),)

    @functools.cache
    def loss(index: int) -> float:
        try:
            return sum(
                _held_out_loss(
                    halves[fitted].hessian, pulls[fitted], halves[unseen].hessian, pulls[unseen], candidates[index]
                )
                for fitted, unseen in folds
            )
        except np.linalg.LinAlgError:
            return np.inf

    # The loss falls and then rises with the damping. Of equal ones, the largest is taken.
    few = halves[0].rows < _FEW_ROWS_PER_INPUT * weight.shape[2]
    best = start = len(candidates) - 1 if few else min(1, len(candidates) - 1)
    while best + 1 < len(candidates) and loss(best + 1) <= loss(best):
        best += 1
    if best == start:
        while best > 0 and loss(best - 1) < loss(best):
            best -= 1
    if not np.isfinite(loss(best)):
        raise np.linalg.LinAlgError(f"halves not positive definite with damping {max(candidates):g}")
    return float(candidates[best]) if loss(best) < 0 else np.inf


def _held_out_loss(hessian: Floats, right: Floats, other: Floats, unseen: Floats, damping: float) -> float:
    """Return the error on the held-out half, less that of the weight itself.

    Args:
        hessian: Hessian of the fitted half, ``[g, k, k]``.
        right: `projection` of the fitted half, ``[g, o, k]``.
        other: Hessian of the held-out half, ``[g, k, k]``.
        unseen: `projection` of the held-out half, ``[g, o, k]``.
        damping: λ as a share of the mean of diag H.
    """
    delta = _solve(hessian, right, damping)
    return float(((delta @ other - 2 * unseen) * delta).sum())


def projection(weight: Floats, moments: Moments, every: int = 1) -> Floats:
    """Return ``W (X - X̂)ᵀX̂ + (S - Ŝ)ᵀX̂`` ``[g, o, k]``. ``weight`` holds every ``every``-th channel of the layer.

    Raises:
        ValueError: The moments have no `cross`.
    """
    residual = None if moments.residual is None else moments.residual[:, ::every]
    if moments.cross is None:
        if residual is None:
            raise ValueError("the moments have no cross moments and no residual")
        return residual
    right: Floats = weight @ moments.cross
    return right if residual is None else right + residual


def _solve(hessian: Floats, right: Floats, damping: float) -> Floats:
    """Return ``right (H + λI)⁻¹`` ``[g, o, k]`` for ``right`` ``[g, o, k]`` and ``hessian`` ``[g, k, k]``.

    Raises:
        numpy.linalg.LinAlgError: H + λI is not positive definite.
    """
    groups, k, _ = hessian.shape
    mean = np.einsum("gkk->g", hessian) / k
    index = np.arange(k)
    damped = hessian.copy()
    damped[:, index, index] += (damping * np.where(mean > 0, mean, 1))[:, None].astype(np.float32)
    if groups > 1:
        np.linalg.cholesky(damped)  # raises for an indefinite matrix, which the solver below would accept
        return np.linalg.solve(damped, right.transpose(0, 2, 1)).transpose(0, 2, 1).astype(np.float32)
    factor, info = lapack.spotrf(damped[0].T, lower=0, clean=0, overwrite_a=1)
    if info:
        raise np.linalg.LinAlgError(f"not positive definite at row {info}")
    solved, _ = lapack.spotrs(factor, right[0].T, lower=0)
    return np.ascontiguousarray(solved.T)[None]
