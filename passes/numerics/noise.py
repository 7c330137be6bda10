"""The expected output noise of a layer with quantized inputs and weights, from a few statistics per channel.

Rounding errors of weights are uncorrelated, so only the diagonal of the Hessian matters. A grid of step Δ has the mean
squared error Δ²/12, except at zero, which is exact. Clipping a channel to the range R adds 2 b² exp(-R/b) for a Laplace
density (Banner et al. 2019, arXiv:1810.05723, equation 5), with b = rms / √2:

    noise = Σ_c E[e_c²] Σ_o W_oc²  +  Σ_o Δ_o²/12 Σ_c E[x_c²]      e_c from rounding and clipping x, Δ_o from W_o
"""

import numpy as np
from numpy.typing import NDArray

from passes.numerics.channels import ChannelStatistics
from passes.numerics.grid import Floats, code_range

__all__ = ["activation_error", "expected_noise", "noise_gain"]

Doubles = NDArray[np.float64]

_LEVELS = 255  # number of steps of an 8-bit activation grid


def activation_error(inputs: ChannelStatistics) -> Doubles:
    """Return each channel's mean squared error ``[c]`` on a shared 8-bit grid with the range of least total error."""
    largest = float(inputs.absmax.max(initial=0.0))
    if largest == 0:
        return np.zeros(inputs.channels)
    one_sided = bool(np.all(np.abs(inputs.mean) >= inputs.mean_abs * (1 - 1e-6)))  # all values have one sign
    reach = largest * np.geomspace(0.02, 1, 60)[:, None]  # [r, 1]
    rounding = np.square(reach * (1 if one_sided else 2) / _LEVELS) / 12
    rms = np.sqrt(np.maximum(inputs.mean_square, 1e-30))  # [c]
    clipping = inputs.mean_square * np.exp(-reach * np.sqrt(2) / rms)
    error: Doubles = rounding * (1 - inputs.zeros) + np.where(reach < inputs.absmax, clipping, 0.0)  # [r, c]
    best: Doubles = error[int(error.sum(axis=1).argmin())]
    return best


def noise_gain(weight: Floats, inputs: ChannelStatistics) -> Doubles:
    """Return the output error per error of mean square 1 in each input channel, ``[g i]``.

    It is relative to the mean square of the output.

    Args:
        weight: ``[g, o, k]``.
        inputs: Statistics of the ``g i`` input channels. Each is read by ``k / i`` taps.
    """
    groups, _, k = weight.shape
    taps = k * groups // inputs.channels
    energy = np.square(weight, dtype=np.float64).sum(axis=1).reshape(-1, taps).sum(axis=1)  # [g i]
    signal = float(energy @ inputs.mean_square)
    gain: Doubles = energy / signal if signal > 0 else np.zeros(inputs.channels)
    return gain


def expected_noise(weight: Floats, inputs: ChannelStatistics, bits: int) -> float:
    """Return the expected squared output error over the mean square of the output, both summed over outputs.

    Args:
        weight: ``[g, o, k]``. Its grid has ``bits`` bits and a scale for every output.
        inputs: Statistics of the input channels, as in `noise_gain`.
        bits: Bits per weight.
    """
    groups, _, k = weight.shape
    taps = k * groups // inputs.channels
    gain = noise_gain(weight, inputs)
    step = np.abs(weight).max(axis=2) / code_range(bits)[1]  # [g, o]
    power = inputs.mean_square.reshape(groups, -1).sum(axis=1) * taps  # [g]
    from_weights = float((np.square(step, dtype=np.float64) / 12).sum(axis=1) @ power)
    signal = float(np.square(weight, dtype=np.float64).sum(axis=1).reshape(-1, taps).sum(axis=1) @ inputs.mean_square)
    return float(gain @ activation_error(inputs)) + from_weights / signal if signal > 0 else 0.0
