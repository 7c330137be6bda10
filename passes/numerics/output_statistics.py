"""Statistics of a layer's outputs in the float and the quantized network, and corrections by a factor and a shift.

With float outputs y and quantized outputs ŷ on the same images, a corrected channel is ``f ŷ + d``:

    bias correction            f = 1,             d = E[y] - E[ŷ]        Nagel et al. 2019 (arXiv:1906.04721), §4.2
    re-estimated statistics    f = σ(y) / σ(ŷ),   d = E[y] - f E[ŷ]      Ioffe & Szegedy 2015 (arXiv:1502.03167)
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from passes.numerics.grid import Floats

__all__ = ["OutputStatistics", "OutputSums"]

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class OutputStatistics:
    """Statistics of every output channel, each ``[g, o]``.

    Attributes:
        mean: Mean of y.
        mean_quantized: Mean of ŷ.
        variance: Variance of y.
        variance_quantized: Variance of ŷ.
        covariance: Covariance of y and ŷ.
    """

    mean: Doubles
    mean_quantized: Doubles
    variance: Doubles
    variance_quantized: Doubles
    covariance: Doubles

    def shift(self, factor: Doubles) -> Doubles:
        """Return the shift ``[g, o]`` that gives ``factor ŷ`` the mean of y."""
        return self.mean - factor * self.mean_quantized

    def error(self, factor: Doubles, shift: Doubles) -> float:
        """Return ``E[(f ŷ + d - y)²] / E[y²]``, both summed over channels. It is 0 if y is zero."""
        varying = np.square(factor) * self.variance_quantized - 2 * factor * self.covariance + self.variance
        constant = np.square(shift - self.shift(factor))
        signal = float((self.variance + np.square(self.mean)).sum())
        return max(float((varying + constant).sum()), 0.0) / signal if signal > 0 else 0.0


class OutputSums:
    """Sums statistics over batches of both networks' outputs ``[g, n, o]``. `statistics` returns the result.

    Args:
        groups: Number g of groups.
        outputs: Number o of outputs per group.

    Attributes:
        rows: Number of rows added so far.
    """

    def __init__(self, groups: int, outputs: int) -> None:
        self.rows = 0
        self._sums = np.zeros((5, groups, outputs))

    def update(self, exact: Floats, quantized: Floats) -> None:
        """Add a batch of outputs of the float and of the quantized network, both ``[g, n, o]``.

        Raises:
            ValueError: The shapes differ.
        """
        if exact.shape != quantized.shape:
            raise ValueError(f"outputs of shapes {exact.shape} and {quantized.shape}")
        y, other = exact.astype(np.float64), quantized.astype(np.float64)
        products = (y, other, y * y, other * other, y * other)
        self._sums += np.stack([product.sum(axis=1) for product in products])
        self.rows += y.shape[1]

    def statistics(self) -> OutputStatistics:
        """Return the statistics of all batches so far.

        Raises:
            ValueError: No outputs were added.
        """
        if not self.rows:
            raise ValueError("no outputs were collected")
        mean, other, square, square_other, product = self._sums / self.rows
        return OutputStatistics(
            mean,
            other,
            np.maximum(square - mean * mean, 0),
            np.maximum(square_other - other * other, 0),
            product - mean * other,
        )
