"""Signal to quantization-noise ratio: how far a tensor is from its reference.

    SQNR = 10 log10( sum r^2 / sum (r - o)^2 )   [dB]

r is the reference and o the other tensor. One more bit of precision gains about 6 dB. All sums are float64.

    cosine = sum r o / sqrt( sum r^2 sum o^2 )

The cosine is 1 if the two tensors differ by a positive factor only. It is smaller if their directions differ.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Likeness", "SqnrSum", "decibel", "sqnr_db"]


def decibel(signal: float, noise: float) -> float:
    """Return 10 log10(signal / noise): +inf without noise, -inf with noise but without signal."""
    if noise == 0:
        return math.inf
    if signal == 0:
        return -math.inf
    return 10 * (math.log10(signal) - math.log10(noise))  # the quotient itself could overflow


def sqnr_db(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the SQNR of `other` against `reference` in dB. It is inf if the two arrays are equal.

    >>> sqnr_db(np.array([3.0, 4.0]), np.array([3.0, 3.5]))  # 25 of signal, 0.25 of noise
    20.0

    Raises:
        ValueError: The shapes differ. Broadcasting would hide a mistake.
    """
    total = SqnrSum()
    total.update(reference, other)
    return total.db


class SqnrSum:
    """The SQNR of a tensor that comes in batches: call `update` for every batch, then read `db`.

    Attributes:
        signal: Sum of the squared reference values.
        noise: Sum of the squared differences.
    """

    def __init__(self) -> None:
        self.signal = 0.0
        self.noise = 0.0

    def update(self, reference: NDArray[Any], other: NDArray[Any]) -> None:
        """Add one batch.

        Raises:
            ValueError: The shapes differ.
        """
        if reference.shape != other.shape:
            raise ValueError(f"reference has shape {reference.shape}, other has shape {other.shape}")
        expected = np.asarray(reference, dtype=np.float64).ravel()
        error = expected - np.asarray(other, dtype=np.float64).ravel()
        self.signal += float(expected @ expected)
        self.noise += float(error @ error)

    @property
    def db(self) -> float:
        """SQNR in dB of all batches so far. It is inf if nothing differed."""
        return decibel(self.signal, self.noise)


class Likeness(SqnrSum):
    """SQNR and cosine of a tensor that comes in batches.

    Attributes:
        other: Sum of the squared values of the other tensor.
        cross: Sum of the products of both tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.other = 0.0
        self.cross = 0.0

    def update(self, reference: NDArray[Any], other: NDArray[Any]) -> None:
        super().update(reference, other)
        expected = np.asarray(reference, dtype=np.float64).ravel()
        actual = np.asarray(other, dtype=np.float64).ravel()
        self.other += float(actual @ actual)
        self.cross += float(expected @ actual)

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the tensors, from -1 to 1. 1 if nothing differed, 0 if only one is zero."""
        if self.noise == 0:
            return 1.0
        size = math.sqrt(self.signal) * math.sqrt(self.other)
        return self.cross / size if size else 0.0
