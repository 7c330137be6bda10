"""What every layer's quantization adds to the noise of a network's output, at every number of bits.

Errors of layers are nearly uncorrelated where they are small, so their powers add up (the additive noise model; Zhou et
al. 2018, arXiv 1712.01048, eq. 5-7):

    P = P_0 + Σ_l f(bits_l) g_l e_l(bits_l)

e_l is the error of the layer's own output over its power, g_l its importance: what a unit of it costs at the output.
P_0 comes from the activations, and f says how much arrives: later layers make up for the errors of earlier ones, and
large errors, those of the fewest bits, do not simply add up.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["arriving_shares", "as_deployed", "importance"]

Doubles = NDArray[np.float64]
Choices = NDArray[np.intp]

_MOST = 4.0  # a measured error moves the rest of a layer's row, and an attempt a share, by no more than this factor
_LEAST_ERROR = 1e-12  # of a layer's output over its power; a smaller one is none
_MATERIAL = 0.1  # of what is predicted: what puts in less is lost in the scatter of the rest
_SMALLEST_SHARE = 0.05  # of the sum that may arrive; a smaller one is a difference of two measurements of one size


def importance(own: Doubles, output: Doubles) -> Doubles:
    """G ``[l]``: mean, in dB, of the output's error over the layer's own, where both were measured.

    Args:
        own: ``[l, c]``, errors of the layer's output.
        output: ``[l, c]``, errors of the network's output with this layer alone quantized; nan where it was not tried.
    """
    gain: Doubles = np.exp(np.nanmean(np.log(np.maximum(output, np.finfo(float).tiny) / own), axis=1))
    return gain


def as_deployed(
    own: Doubles, known: NDArray[np.bool_], choices: Choices, measured: Doubles
) -> tuple[Doubles, NDArray[np.bool_]]:
    """The table ``[l, c]`` with what was measured ``[l]`` at every layer's choice, nan where nothing was.

    The walk solves a layer on inputs of its quantized predecessors, more thoroughly than the table's builder did, so
    what is not ``known`` ``[l, c]`` from such measurements is scaled with the nearest of them.

    Returns:
        The table, and what is known now.
    """
    rows = np.flatnonzero(np.isfinite(measured))
    places, found = choices[rows], np.maximum(measured[rows], _LEAST_ERROR)
    factor = np.clip(found / own[rows, places], 1 / _MOST, _MOST)
    columns = np.arange(own.shape[1])
    apart = np.abs(columns[:, None] - columns)  # [c, c]
    nearest = np.where(known[rows, None, :], apart, len(columns)).min(axis=2)  # [r, c], of those known before
    table, seen = own.copy(), known.copy()
    table[rows] *= np.where(apart[places] < nearest, factor[:, None], 1.0)
    table[rows, places] = found
    seen[rows, places] = True
    return table, seen


def arriving_shares(
    shares: Doubles, known: NDArray[np.bool_], sums: Doubles, arrived: float
) -> tuple[Doubles, NDArray[np.bool_]]:
    """Shares f ``[c]`` with which what one attempt put in gives what ``arrived`` of it; ``c`` rises with the bits.

    It is laid to bits of which nothing is known yet, or, where all are, to the attempt's fewest: the largest errors are
    the least additive. Bits that put in less than a tenth are taught nothing; they, and those that no attempt had, get
    the share of the nearest that were.

    Args:
        shares: as they were.
        known: ``[c]``, of which bits earlier attempts spoke.
        sums: ``[c]``, errors times importance that the attempt has at these bits.
        arrived: power of the output's error above P_0.

    Returns:
        The shares, and which are known now.
    """
    predicted = shares * sums
    heavy = predicted >= _MATERIAL * predicted.sum()
    if not predicted.sum() > 0 or not np.isfinite(arrived):
        return shares, known
    taught = heavy & ~known
    if not taught.any():
        taught = np.arange(len(sums)) == np.flatnonzero(heavy)[0]
    factor = (arrived - float(predicted[~taught].sum())) / float(predicted[taught].sum())
    if known.any():
        factor = float(np.clip(factor, 1 / _MOST, _MOST))
    found = np.where(taught, np.maximum(shares * factor, _SMALLEST_SHARE), shares)
    heard = known | heavy
    certain = np.flatnonzero(heard)
    nearest = certain[np.abs(certain[None, :] - np.arange(len(sums))[:, None]).argmin(axis=1)]
    filled: Doubles = found[nearest]
    return filled, heard
