"""Histogram of a tensor over all samples. Of a large tensor, it takes every n-th value."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.data.dataset import Part
from passes.numerics.histogram import Histogram

__all__ = ["SampledHistogram"]

_SAMPLES = 1 << 17  # values per sample of a tensor that enter its histogram, at most
_FEWEST = 1 << 13  # and at least, however many samples there are
_VALUES = 1 << 23  # values of all samples that a histogram needs


class SampledHistogram:
    """Counts of some values of a tensor. The smallest and the largest value of each group of samples always count.

    Values are taken at equal steps through a group. So the counts do not depend on how a group is cut into batches.

    Args:
        samples: Number of all samples. The more there are, the fewer values of each are counted.
    """

    def __init__(self, samples: int) -> None:
        self._histogram = Histogram()
        self._limit = max(min(_SAMPLES, _VALUES // max(samples, 1)), min(_SAMPLES, _FEWEST))
        self._group = -1
        self._extremes: list[float] = []

    def update(self, values: NDArray[Any], part: Part, group: int) -> None:
        """Count the values of a batch.

        Args:
            values: The tensor, for the real rows of the batch.
            part: The samples of the batch.
            group: Samples in a group.
        """
        flat = values.reshape(-1)
        each = flat.size // part.count  # values per sample
        limit = self._limit * max((len(values) if values.ndim else 1) // part.count, 1)
        if each <= limit:
            self._histogram.update(flat)
            return
        index, skip = part.place(group)
        if index != self._group:
            self._close()
        step = -(-each // limit) | 1  # odd, so that it does not follow one column of an image of even width
        self._histogram.update(flat[-(skip * each) % step :: step])
        self._group = index
        self._extremes += [flat.min(), flat.max()]

    def histogram(self) -> Histogram:
        """Return the counts of all batches."""
        self._close()
        return self._histogram

    def _close(self) -> None:
        """End a group."""
        if self._extremes:
            self._histogram.update(np.array([min(self._extremes), max(self._extremes)]))
        self._extremes = []
