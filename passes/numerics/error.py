"""Signal to quantization-noise ratio: how far one tensor is from the tensor it stands for.

    SQNR = 10 log10( sum r^2 / sum (r - o)^2 )   [dB]

with r the reference and o the other. One bit more of precision is worth about 6 dB. All sums are float64.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SqnrSum", "decibel", "sqnr_db"]


def decibel(signal: float, noise: float) -> float:
    """10 log10(signal / noise); +inf where there is no noise, -inf where there is noise but no signal."""
    if noise == 0:
        return math.inf
    if signal == 0:
        return -math.inf
    return 10 * (math.log10(signal) - math.log10(noise))  # the quotient itself could overflow


def sqnr_db(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """SQNR of `other` against `reference`, two arrays of one shape, in dB; inf when they are equal.

    Raises ValueError when the shapes differ: broadcasting would hide a mistake.

    >>> sqnr_db(np.array([3.0, 4.0]), np.array([3.0, 3.5]))  # 25 of signal, 0.25 of noise
    20.0
    """
    total = SqnrSum()
    total.update(reference, other)
    return total.db


class SqnrSum:
    """The two sums of an SQNR, gathered batch by batch: `update` for every batch, then read `db`."""

    def __init__(self) -> None:
        self.signal = 0.0
        self.noise = 0.0

    def update(self, reference: NDArray[Any], other: NDArray[Any]) -> None:
        """Add one batch: two arrays of one shape. Raises ValueError when the shapes differ."""
        if reference.shape != other.shape:
            raise ValueError(f"reference has shape {reference.shape}, other has shape {other.shape}")
        exact = np.asarray(reference, dtype=np.float64).ravel()
        error = exact - np.asarray(other, dtype=np.float64).ravel()
        self.signal += float(exact @ exact)
        self.noise += float(error @ error)

    @property
    def db(self) -> float:
        """SQNR in dB of everything added so far; inf when nothing differed."""
        return decibel(self.signal, self.noise)
