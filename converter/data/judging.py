"""Samples that judge a file: calibration data that the conversion does not see, or that no weight is fitted to."""

from dataclasses import dataclass

import numpy as np

from converter.data.dataset import Dataset, spread
from converter.data.sources import Rows

__all__ = ["Judging"]


@dataclass(frozen=True)
class Judging:
    """How many samples judge. Those beyond the limit of samples that calibrate come first.

    Attributes:
        most: Largest number of samples that judge.
        share: One sample in so many judges, if there are not enough beyond the limit.
        fewest: With fewer samples, all calibrate and none judges.
        by_labels: Whether the labels count, so that they must be classes of the model.
        among: Where there are fewer than ``fewest``, how many of those that calibrate judge all the same. Ranges are
            measured on them, and no weight is fitted to them.
    """

    most: int
    share: int
    fewest: int = 2
    by_labels: bool = False
    among: "Judging | None" = None

    def rows(self, count: int, limit: int, seed: int) -> tuple[Rows, Rows]:
        """Return the indices of the samples that calibrate, at most ``limit``, and of those that judge."""
        held = min(self.most, max(1, count // self.share)) if count >= max(self.fewest, 2) else 0
        fit = spread(count, min(limit, count - held), seed)
        rest = np.setdiff1d(np.arange(count), fit)
        return fit, rest[spread(len(rest), self.most, seed)] if len(rest) > self.most else rest

    def split(self, data: Dataset, limit: int, seed: int) -> tuple[Dataset, Dataset | None]:
        """Return the samples that calibrate, and those that judge. None: there are none."""
        fit, judge = self.rows(len(data), limit, seed)
        return data.select(fit), data.select(judge) if len(judge) else None
