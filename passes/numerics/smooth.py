"""Scales that move quantization difficulty between a layer's inputs and its weights, channel by channel.

Every function returns finite, positive scales ``s`` ``[c]``. For SmoothQuant and AWQ, activations become ``x / s`` and
the weights that read them ``W s``. For equalization, the result is the factor of the activation. Dead channels have s =
1. The scales of the others have the geometric mean 1 (not for equalization): a common factor of all channels changes
nothing on grids whose ranges are free.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["awq", "equalization", "salient", "smoothquant"]

Doubles = NDArray[np.float64]

_FAINT = 1e-7  # of the largest weight: less than the last bit of float32
_FURTHEST = 1e4  # scales are at most this, and at least its inverse: float32 stays precise, int32 biases stay in range


def smoothquant(activations: Doubles, weights: Doubles, alpha: float) -> Doubles:
    """Return ``s_j = max|X_j|^α / max|W_j|^(1-α)`` (Xiao et al. 2023, arXiv:2211.10438, equation 4).

    Args:
        activations: max|X_j| of each channel, ``[c]``.
        weights: max|W_j| of each channel, ``[c]``.
        alpha: α, the share of the difficulty that moves to the weights.

    >>> smoothquant(np.array([16.0, 1.0]), np.array([1.0, 1.0]), 0.5)
    array([2. , 0.5])
    """
    alive = (activations > 0) & (weights > 0)
    return _around_one(alpha * _log(activations, alive) - (1 - alpha) * _log(weights, alive), alive)


def awq(mean_abs: Doubles, alpha: float) -> Doubles:
    """Return ``s_j = (mean|X_j|)^α`` (Lin et al. 2024, arXiv:2306.00978, equation 5). ``mean_abs`` is ``[c]``."""
    alive = mean_abs > 0
    return _around_one(alpha * _log(mean_abs, alive), alive)


def salient(mean_abs: Doubles, share: float) -> NDArray[np.bool_]:
    """Return a mask ``[c]`` of the ``share`` of channels with the largest mean |x|, at least one of them.

    These channels have AWQ's salient weights (§3.1).
    """
    count = max(1, round(share * len(mean_abs)))
    mask = np.zeros(len(mean_abs), np.bool_)
    mask[np.argsort(-mean_abs, kind="stable")[:count]] = True
    return mask


def equalization(rows: Doubles, columns: Doubles) -> Doubles:
    """Return the factor f ``[c]`` that equalizes the weight ranges on both sides of a channel.

    Nagel et al. 2019, equation 11: ``f = sqrt(r2 / r1)``, hence ``r1 f = r2 / f``. The geometric mean of f is not set
    to 1, because that would make the ranges differ.

    Args:
        rows: ``r1``, the largest |weight| that writes each channel, ``[c]``.
        columns: ``r2``, the largest |weight| that reads each channel, ``[c]``.
    """
    alive = _alive(rows) & _alive(columns)
    logarithm = (_log(columns, alive) - _log(rows, alive)) / 2
    return _exp(logarithm)


def _alive(ranges: Doubles) -> NDArray[np.bool_]:
    """Return which channels ``[c]`` have weights that matter beside the largest. A factor would only raise others."""
    alive: NDArray[np.bool_] = ranges > _FAINT * ranges.max(initial=0.0)
    return alive


def _log(values: Doubles, alive: NDArray[np.bool_]) -> Doubles:
    logarithm: Doubles = np.log(np.where(alive, values, 1.0))
    return logarithm


def _exp(logarithm: Doubles) -> Doubles:
    scale: Doubles = np.exp(np.clip(logarithm, -np.log(_FURTHEST), np.log(_FURTHEST)))
    return scale


def _around_one(logarithm: Doubles, alive: NDArray[np.bool_]) -> Doubles:
    if not alive.any():
        return np.ones(len(logarithm))
    centered = np.where(alive, logarithm - logarithm[alive].mean(), 0.0)
    return _exp(centered)
