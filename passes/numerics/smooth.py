"""Scales that move difficulty between a layer's inputs and its weights, channel by channel.

Every function returns a ``s`` ``[c]`` that is finite and positive. Activations become ``x / s`` and the weights that
read them ``W s`` (SmoothQuant, AWQ); equalization gives the factor of the activation itself. Dead channels keep 1, the
others have geometric mean 1: on grids whose ranges are free a factor of all channels changes nothing.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["awq", "equalization", "salient", "smoothquant"]

Doubles = NDArray[np.float64]

_FURTHEST = 1e4  # of a scale from 1: float32 keeps its precision, and int32 biases their range


def smoothquant(activations: Doubles, weights: Doubles, alpha: float) -> Doubles:
    """``s_j = max|X_j|^α / max|W_j|^(1-α)`` (Xiao et al. 2023, arXiv:2211.10438, equation 4); both arguments ``[c]``.

    >>> smoothquant(np.array([16.0, 1.0]), np.array([1.0, 1.0]), 0.5)
    array([2. , 0.5])
    """
    alive = (activations > 0) & (weights > 0)
    return _around_one(alpha * _log(activations, alive) - (1 - alpha) * _log(weights, alive), alive)


def awq(mean_abs: Doubles, alpha: float) -> Doubles:
    """``s_j = (mean|X_j|)^α`` (Lin et al. 2024, arXiv:2306.00978, equation 5); ``mean_abs`` ``[c]``."""
    alive = mean_abs > 0
    return _around_one(alpha * _log(mean_abs, alive), alive)


def salient(mean_abs: Doubles, share: float) -> NDArray[np.bool_]:
    """The ``share`` of channels with the largest mean |x|, at least one: AWQ's salient weights (§3.1)."""
    count = max(1, round(share * len(mean_abs)))
    mask = np.zeros(len(mean_abs), np.bool_)
    mask[np.argsort(-mean_abs, kind="stable")[:count]] = True
    return mask


def equalization(rows: Doubles, columns: Doubles) -> Doubles:
    """The factor that makes the ranges before and behind a channel equal (Nagel et al. 2019, equation 11), ``[c]``.

    ``rows`` ``r1`` is the largest |weight| that writes the channel and ``columns`` ``r2`` the largest that reads it:
    ``f = sqrt(r2 / r1)``, hence ``r1 f = r2 / f``. Its mean is not moved to 1, for the ranges must meet.
    """
    alive = (rows > 0) & (columns > 0)
    logarithm = (_log(columns, alive) - _log(rows, alive)) / 2
    return _exp(logarithm)


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
