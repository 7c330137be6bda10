"""The noise that each layer's quantization adds to a network's output, for every number of bits.

Small errors of layers are nearly uncorrelated, so their powers add up (the additive noise model; Zhou et al. 2018,
arXiv 1712.01048, eq. 5-7):

    P = P_0 + Σ_l f(bits_l) g_l e_l(bits_l)

e_l is the error power of the layer's own output over the power of that output. g_l is the layer's importance: the error
power at the network's output for e_l = 1. P_0 comes from the activations. f is the share of the errors that arrives at
the output. It differs from 1 because later layers compensate for errors of earlier ones, and because large errors,
those of the fewest bits, are not additive.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["arriving_shares", "as_deployed", "importance"]

Doubles = NDArray[np.float64]
Choices = NDArray[np.intp]

_MOST = 4.0  # largest factor by which one measurement changes the rest of a layer's row, or a share
_LEAST_ERROR = 1e-12  # smallest relative error of a layer's output; smaller ones are rounding errors
_MATERIAL = 0.1  # bits with a smaller part of the predicted noise learn nothing: the scatter of the rest hides them
_SMALLEST_SHARE = 0.05  # smallest share that arrives; a smaller one is a difference of two nearly equal measurements


def importance(own: Doubles, output: Doubles) -> Doubles:
    """Return g ``[l]``: the network's output error over the layer's own error, averaged in dB over measured choices.

    Args:
        own: Errors of each layer's output, ``[l, c]``.
        output: Errors of the network's output with only this layer quantized, ``[l, c]``. nan where none was measured.
    """
    gain: Doubles = np.exp(np.nanmean(np.log(np.maximum(output, np.finfo(float).tiny) / own), axis=1))
    return gain


def as_deployed(
    own: Doubles, known: NDArray[np.bool_], choices: Choices, measured: Doubles
) -> tuple[Doubles, NDArray[np.bool_]]:
    """Update the table of layer errors with the errors that were measured in a converted network.

    Sequential calibration solves a layer on the inputs of its quantized predecessors. It is more thorough than the
    method that filled the table. So entries that are not ``known`` are scaled by the factor of the nearest measured
    entry.

    Args:
        own: The table: errors of each layer's output, ``[l, c]``.
        known: Entries that come from earlier measurements, ``[l, c]``.
        choices: Choice of each layer, ``[l]``.
        measured: Measured error of each layer at its choice, ``[l]``. nan where none was measured.

    Returns:
        The updated table and ``known``, both ``[l, c]``.
    """
    rows = np.flatnonzero(np.isfinite(measured))
    chosen, errors = choices[rows], np.maximum(measured[rows], _LEAST_ERROR)
    factor = np.clip(errors / own[rows, chosen], 1 / _MOST, _MOST)
    columns = np.arange(own.shape[1])
    distance = np.abs(columns[:, None] - columns)  # [c, c]
    nearest = np.where(known[rows, None, :], distance, len(columns)).min(axis=2)  # [r, c], to entries known before
    table, now_known = own.copy(), known.copy()
    table[rows] *= np.where(distance[chosen] < nearest, factor[:, None], 1.0)
    table[rows, chosen] = errors
    now_known[rows, chosen] = True
    return table, now_known


def arriving_shares(
    shares: Doubles, known: NDArray[np.bool_], sums: Doubles, arrived: float
) -> tuple[Doubles, NDArray[np.bool_]]:
    """Update the shares f ``[c]`` so that they predict the output noise of one attempt.

    The whole correction goes to the bits whose share is not known yet. If all are known, it goes to the attempt's
    fewest bits, because the largest errors are the least additive. Bits with less than a tenth of the predicted noise
    are not updated from the measurement. They, and bits that no attempt has used, get the share of the nearest known
    bits.

    Args:
        shares: Current shares, ``[c]``, in order of rising bits.
        known: Whether an earlier attempt has determined each share, ``[c]``.
        sums: Sum of errors times importance over the attempt's layers of these bits, ``[c]``.
        arrived: Power of the output's error above P_0.

    Returns:
        The updated shares and ``known``, both ``[c]``.
    """
    predicted = shares * sums
    heavy = predicted >= _MATERIAL * predicted.sum()
    if not predicted.sum() > 0 or not np.isfinite(arrived):
        return shares, known
    updated = heavy & ~known
    if not updated.any():
        updated = np.arange(len(sums)) == np.flatnonzero(heavy)[0]
    factor = (arrived - float(predicted[~updated].sum())) / float(predicted[updated].sum())
    if known.any():
        factor = float(np.clip(factor, 1 / _MOST, _MOST))
    new_shares = np.where(updated, np.maximum(shares * factor, _SMALLEST_SHARE), shares)
    now_known = known | heavy
    known_bits = np.flatnonzero(now_known)
    nearest = known_bits[np.abs(known_bits[None, :] - np.arange(len(sums))[:, None]).argmin(axis=1)]
    filled: Doubles = new_shares[nearest]
    return filled, now_known
