"""What the codes of a layer should approximate, given that the layers before it err: the asymmetric target.

With rows X of the float network and X̂ of the quantized one, the weight moves to the least-squares answer for what it is
really fed,

    W* = W + Δ,   Δ = W (X - X̂)ᵀX̂ (X̂ᵀX̂ + λI)⁻¹

(GPTAQ, Li et al. 2025, arXiv 2504.02692). Where a tensor S is added to the layer's output, as at the end of a residual
block, the layer can make up for its error too, and ``(S - Ŝ)ᵀX̂`` joins ``W (X - X̂)ᵀX̂``.

Δ has as many free numbers a row as the layer has inputs. With few rows (a classifier has one an image) it explains the
calibration images and nothing else; on rows it has not seen it leaves

    ‖E - ΔX̂‖² = const - 2 <Δ, EᵀX̂> + <Δ X̂ᵀX̂, Δ>,   E = W(X - X̂) + S - Ŝ

which the moments of those rows give in closed form. So λ is chosen by two-fold cross-validation, without an activation
stored.
"""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from scipy.linalg import lapack

from passes.numerics.grid import Floats
from passes.numerics.moments import Moments

__all__ = ["HELD_OUT_DAMPINGS", "asymmetric_target", "held_out_damping"]

HELD_OUT_DAMPINGS = (0.01, 0.1, 1.0, 10.0)
_JUDGED = 64  # output channels that the choice of λ looks at


def asymmetric_target(weight: Floats, moments: Moments, damping: float | None = None) -> Floats:
    """W* ``[g, o, k]`` for weight ``[g, o, k]``; the weight itself where both networks see the same inputs.

    Args:
        weight: float32.
        moments: of the layer's inputs, with `cross`.
        damping: λ as a share of the mean of diag H; None: the best of `HELD_OUT_DAMPINGS` on held-out halves, 0.01
            without halves, or the next one that makes the Hessian positive definite.

    Raises:
        numpy.linalg.LinAlgError: the Hessian is not positive definite with any damping that may be used.
    """
    if moments.cross is None:
        return weight
    wish = _wish(weight, moments)
    if damping is not None:
        return weight + _solve(moments.hessian, wish, damping)
    least = 0.01 if moments.halves is None else held_out_damping(weight, moments.halves, HELD_OUT_DAMPINGS)
    for candidate in (value for value in HELD_OUT_DAMPINGS if value >= least):
        with suppress(np.linalg.LinAlgError):
            return weight + _solve(moments.hessian, wish, candidate)
    raise np.linalg.LinAlgError(f"not positive definite with damping {HELD_OUT_DAMPINGS[-1]:g}")


def held_out_damping(weight: Floats, halves: tuple[Moments, Moments], candidates: Sequence[float]) -> float:
    """The candidate that leaves the least error on the half it was not fitted to; weight ``[g, o, k]``.

    Candidates with which a half's Hessian is not positive definite are passed over.

    Raises:
        ValueError: no candidates, or moments without `cross`.
        numpy.linalg.LinAlgError: no candidate is left.
    """
    if not candidates:
        raise ValueError("no candidates for the damping")
    every = -(-weight.shape[1] // _JUDGED)  # one λ serves them all
    judged = weight[:, ::every]
    pairs = []
    for fitted, unseen in (halves, halves[::-1]):
        pairs.append((fitted.hessian, _wish(judged, fitted, every), unseen.hessian, 2 * _wish(judged, unseen, every)))
    best, least = None, np.inf
    for damping in candidates:
        try:
            loss = sum(_held_out_loss(*pair, damping) for pair in pairs)
        except np.linalg.LinAlgError:
            continue
        if loss > least:  # the loss falls and then rises with the damping
            break
        best, least = damping, loss
    if best is None:
        raise np.linalg.LinAlgError(f"halves not positive definite with damping {max(candidates):g}")
    return float(best)


def _held_out_loss(hessian: Floats, wish: Floats, other: Floats, twice: Floats, damping: float) -> float:
    """What fitting on one half leaves on the other, up to a constant; ``twice`` is twice the other half's wish."""
    move = _solve(hessian, wish, damping)
    return float(((move @ other - twice) * move).sum())


def _wish(weight: Floats, moments: Moments, every: int = 1) -> Floats:
    """``W (X - X̂)ᵀX̂ + (S - Ŝ)ᵀX̂``, of every so many of the layer's outputs."""
    if moments.cross is None:
        raise ValueError("the moments have no cross moments")
    wish: Floats = weight @ moments.cross
    return wish if moments.residual is None else wish + moments.residual[:, ::every]


def _solve(hessian: Floats, right: Floats, damping: float) -> Floats:
    """``right (H + λI)⁻¹`` for ``[g, o, k]`` and ``[g, k, k]``.

    Raises:
        numpy.linalg.LinAlgError: H + λI is not positive definite.
    """
    groups, k, _ = hessian.shape
    mean = np.einsum("gkk->g", hessian) / k
    index = np.arange(k)
    damped = hessian.copy()
    damped[:, index, index] += (damping * np.where(mean > 0, mean, 1))[:, None].astype(np.float32)
    if groups > 1:
        np.linalg.cholesky(damped)  # the solver below takes an indefinite matrix without a word
        return np.linalg.solve(damped, right.transpose(0, 2, 1)).transpose(0, 2, 1).astype(np.float32)
    factor, info = lapack.spotrf(damped[0].T, lower=1, clean=0, overwrite_a=1)
    if info:
        raise np.linalg.LinAlgError(f"not positive definite at row {info}")
    solved, _ = lapack.spotrs(factor, right[0].T, lower=1)
    return np.ascontiguousarray(solved.T)[None]
