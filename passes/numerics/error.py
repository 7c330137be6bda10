"""Signal to quantization-noise ratio: how far one tensor is from the tensor it stands for.

    SQNR = 10 log10( sum r^2 / sum (r - o)^2 )   [dB]

with r the reference and o the other. One bit more of precision is worth about 6 dB. All sums are float64.

    cosine = sum r o / sqrt( sum r^2 sum o^2 )

tells a tensor that is only too small or too large (1) from one that points elsewhere.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Likeness", "SqnrSum", "decibel", "sqnr_db"]


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


class Likeness(SqnrSum):
    """`SqnrSum` with the sums of the cosine beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.other = 0.0
        self.cross = 0.0

    def update(self, reference: NDArray[Any], other: NDArray[Any]) -> None:
        super().update(reference, other)
        exact = np.asarray(reference, dtype=np.float64).ravel()
        found = np.asarray(other, dtype=np.float64).ravel()
        self.other += float(found @ found)
        self.cross += float(exact @ found)

    @property
    def cosine(self) -> float:
        """Of the angle between the two, from -1 to 1; 1 when nothing differed, 0 when only one of them is zero."""
        if self.noise == 0:
            return 1.0
        size = math.sqrt(self.signal) * math.sqrt(self.other)
        return self.cross / size if size else 0.0
