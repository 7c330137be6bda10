"""What every layer's quantization adds to the noise of a network's output, at every number of bits.

Errors of layers are nearly uncorrelated where they are small, so their powers add up (the additive noise model; Zhou et
al. 2018, arXiv 1712.01048, eq. 5-7):

    P = P_0 + f Σ_l g_l e_l(bits_l)

e_l is the error of the layer's own output over its power, g_l its importance: what a unit of it costs at the output.
P_0 comes from the activations, and f says how much of the sum arrives, as later layers make up for the errors of
earlier ones.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["arriving_share", "as_deployed", "importance"]

Doubles = NDArray[np.float64]

_MOST = 4.0  # a measured error moves a layer's row of the table by no more than this factor
_SMALLEST_SHARE = 0.05  # of the sum that may arrive; a smaller one is a difference of two measurements of one size


def importance(own: Doubles, output: Doubles) -> Doubles:
    """G ``[l]``: mean, in dB, of the output's error over the layer's own, where both were measured.

    Args:
        own: ``[l, c]``, errors of the layer's output.
        output: ``[l, c]``, errors of the network's output with this layer alone quantized; nan where it was not tried.
    """
    gain: Doubles = np.exp(np.nanmean(np.log(np.maximum(output, np.finfo(float).tiny) / own), axis=1))
    return gain


def as_deployed(own: Doubles, choices: NDArray[np.intp], measured: Doubles) -> Doubles:
    """The table ``[l, c]`` with every layer's row scaled so that it gives what was measured ``[l]`` at its choice.

    The walk solves a layer on inputs of its quantized predecessors, more thoroughly than the table's builder did.
    """
    expected = np.take_along_axis(own, choices[:, None], axis=1)[:, 0]
    factor = np.clip(measured / expected, 1 / _MOST, _MOST)
    return own * np.where(np.isfinite(factor), factor, 1.0)[:, None]


def arriving_share(measured: float, floor: float, predicted: float) -> float:
    """f: how much of the ``predicted`` sum is in the ``measured`` power above the ``floor`` P_0."""
    return max((measured - floor) / predicted, _SMALLEST_SHARE)
