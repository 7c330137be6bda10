"""BatchNorm re-estimation: restore the mean and the spread of every channel to those of the float network.

If a BatchNormalization were still in the graph, it would get the statistics of its quantized input (Ioffe & Szegedy
2015, arXiv:1502.03167; for quantized networks Sun et al. 2019, arXiv:1912.13200). Here it was folded into the layer.
The statistics that it would restore are those of the float network's output on the calibration images. So a factor goes
into the scale of the weight's grid, which costs nothing and changes no code. A shift goes into the bias.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from passes.base import Correction, CorrectionPass
from passes.numerics.output_statistics import OutputStatistics

__all__ = ["ReestimateBatchnorm"]


@dataclass(frozen=True)
class ReestimateBatchnorm(CorrectionPass):
    """Restore mean and standard deviation of every channel. Layers are corrected in order, on corrected inputs.

    Attributes:
        largest: Largest factor of a channel's spread. The smallest one is its inverse.

    Raises:
        ValueError: ``largest`` is less than 1, or not finite.
    """

    name: ClassVar[str] = "reestimate_batchnorm"

    largest: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.largest < np.inf:
            raise ValueError(f"largest must be at least 1, not {self.largest}")

    def correct(self, outputs: OutputStatistics) -> Correction:
        """Return the factor that restores the standard deviation, and the shift that restores the mean."""
        alive = (outputs.variance > 0) & (outputs.variance_quantized > 0)
        ratio = np.divide(outputs.variance, outputs.variance_quantized, where=alive, out=np.ones_like(outputs.mean))
        factor = np.clip(np.sqrt(ratio), 1 / self.largest, self.largest)
        return Correction("statistics re-estimated", factor, outputs.shift(factor))
