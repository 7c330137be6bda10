"""Bias correction: change a channel's bias to undo the shift of its mean by quantization.

Nagel et al. 2019 (arXiv:1906.04721), §4.2, with means over calibration images instead of those of a normal
distribution. `gptq` includes this correction. After `rtn` it is a pass of its own.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from passes.base import Correction, CorrectionPass
from passes.numerics.output_statistics import OutputStatistics

__all__ = ["BiasCorrection"]


@dataclass(frozen=True)
class BiasCorrection(CorrectionPass):
    """Bias correction. Layers are corrected in order, on corrected inputs."""

    name: ClassVar[str] = "bias_correction"

    def correct(self, outputs: OutputStatistics) -> Correction:
        """Return the shift that restores the mean."""
        factor = np.ones_like(outputs.mean)
        return Correction("bias corrected", factor, outputs.shift(factor))
