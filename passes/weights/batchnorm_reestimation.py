"""BatchNorm re-estimation: every channel gets back the mean and the spread that the network was trained with.

A BatchNormalization that still stood in the graph would be given the statistics of its quantized input (Ioffe & Szegedy
2015, arXiv:1502.03167; for quantized networks Sun et al. 2019, arXiv:1912.13200). Here it has been folded, and the
statistics it would restore are those of the float network's output on the calibration images. So the factor goes into
the scale of the weight's grid, where it costs nothing and moves no code, and the shift into the bias.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from passes.base import Correction, CorrectionPass
from passes.numerics.output_statistics import OutputStatistics

__all__ = ["ReestimateBatchnorm"]


@dataclass(frozen=True)
class ReestimateBatchnorm(CorrectionPass):
    """Mean and standard deviation of every channel, layer after layer on what the corrected layers before it give.

    Attributes:
        largest: factor of a channel's spread, and one over the smallest.
    """

    name: ClassVar[str] = "reestimate_batchnorm"

    largest: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.largest < np.inf:
            raise ValueError(f"largest must be at least 1, not {self.largest}")

    def correct(self, outputs: OutputStatistics) -> Correction:
        """The factor that restores the standard deviation, and the shift that restores the mean."""
        alive = (outputs.variance > 0) & (outputs.variance_quantized > 0)
        ratio = np.divide(outputs.variance, outputs.variance_quantized, where=alive, out=np.ones_like(outputs.mean))
        factor = np.clip(np.sqrt(ratio), 1 / self.largest, self.largest)
        return Correction("statistics re-estimated", factor, outputs.shift(factor))
