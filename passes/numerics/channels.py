"""Streaming statistics of each channel of a layer's input, for SmoothQuant, AWQ and bias correction."""

import numpy as np
import numpy.typing as npt

__all__ = ["ChannelStatistics"]

Floats = npt.NDArray[np.float64]

_CHUNK = 1 << 16  # number of elements processed at a time


class ChannelStatistics:
    """Statistics of every channel over all rows: max|x|, mean |x|, mean x², mean x and the share of zeros.

    Sums are in float64. Example: after update([[1, -4], [3, 0]]) absmax is [3, 4], mean_abs [2, 2], mean_square [5, 8],
    mean [2, -2], zeros [0, 0.5] and count 2.

    Args:
        channels: Number c of channels.

    Attributes:
        channels: Number c of channels.
        count: Number of rows added so far.
    """

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.count = 0
        self._absmax = np.zeros(channels, np.float64)  # [c]
        self._sum_abs = np.zeros(channels, np.float64)  # [c]
        self._sum_square = np.zeros(channels, np.float64)  # [c]
        self._sum = np.zeros(channels, np.float64)  # [c]
        self._zeros = np.zeros(channels, np.int64)  # [c]

    @property
    def absmax(self) -> Floats:
        """Largest |x| of each channel, [c]. 0 before any rows are added."""
        return self._absmax.copy()

    @property
    def mean_abs(self) -> Floats:
        """Mean of |x| of each channel, [c]. 0 before any rows are added."""
        return self._sum_abs / max(self.count, 1)

    @property
    def mean_square(self) -> Floats:
        """Mean of x² of each channel, [c]. 0 before any rows are added."""
        return self._sum_square / max(self.count, 1)

    @property
    def mean(self) -> Floats:
        """Mean of x of each channel, [c]. 0 before any rows are added."""
        return self._sum / max(self.count, 1)

    @property
    def zeros(self) -> Floats:
        """Share of exact zeros in each channel, [c]. 0 before any rows are added."""
        share: Floats = self._zeros / max(self.count, 1)
        return share

    def update(self, x: npt.NDArray[np.generic]) -> None:
        """Add rows `x` [n, c].

        Raises:
            ValueError: `x` does not have the shape [n, c], or has NaN or Inf. Nothing is added.
        """
        if x.ndim != 2 or x.shape[1] != self.channels:
            raise ValueError(f"rows of shape {x.shape} where [n, {self.channels}] was expected")
        absmax, sum_abs, sum_square, total = (np.zeros(self.channels, np.float64) for _ in range(4))
        zeros = np.zeros(self.channels, np.int64)  # [c]
        step = max(1, _CHUNK // max(self.channels, 1))
        for start in range(0, len(x), step):
            part = np.asarray(x[start : start + step], np.float32)  # [m, c]
            size = np.abs(part)
            np.maximum(absmax, size.max(axis=0), out=absmax)
            zeros += np.count_nonzero(size == 0, axis=0)
            sum_abs += size.sum(axis=0, dtype=np.float64)
            sum_square += np.square(part, dtype=np.float64).sum(axis=0)
            total += part.sum(axis=0, dtype=np.float64)
        if not np.isfinite(absmax).all():
            raise ValueError(f"NaN or Inf in channel {int(np.flatnonzero(~np.isfinite(absmax))[0])}")
        self._absmax = np.maximum(self._absmax, absmax)
        self._sum_abs += sum_abs
        self._sum_square += sum_square
        self._sum += total
        self._zeros += zeros
        self.count += len(x)

    @classmethod
    def joined(cls, first: "ChannelStatistics", second: "ChannelStatistics") -> "ChannelStatistics":
        """Return the statistics of all rows together.

        Raises:
            ValueError: They have another number of channels.
        """
        if first.channels != second.channels:
            raise ValueError(f"statistics of {first.channels} and {second.channels} channels cannot be joined")
        result = cls(first.channels)
        result.count = first.count + second.count
        result._absmax = np.maximum(first._absmax, second._absmax)
        result._sum_abs = first._sum_abs + second._sum_abs
        result._sum_square = first._sum_square + second._sum_square
        result._sum = first._sum + second._sum
        result._zeros = first._zeros + second._zeros
        return result

    def rescaled(self, factors: Floats) -> "ChannelStatistics":
        """Return the statistics of ``x factors``, without reading data. ``factors`` [c] are positive."""
        result = ChannelStatistics(self.channels)
        result.count = self.count
        result._absmax = self._absmax * factors
        result._sum_abs = self._sum_abs * factors
        result._sum_square = self._sum_square * np.square(factors)
        result._sum = self._sum * factors
        result._zeros = self._zeros.copy()
        return result
