"""Bias correction: what quantization moves the mean of a channel by, its bias takes back.

Nagel et al. 2019 (arXiv:1906.04721), §4.2, with means of calibration images in place of those of a normal distribution.
`gptq` does this by itself; after `rtn` it is a pass of its own.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from passes.base import Correction, CorrectionPass
from passes.numerics.output_statistics import OutputStatistics

__all__ = ["BiasCorrection"]


@dataclass(frozen=True)
class BiasCorrection(CorrectionPass):
    """Bias correction, layer after layer on what the corrected layers before it give."""

    name: ClassVar[str] = "bias_correction"

    def correct(self, outputs: OutputStatistics) -> Correction:
        """The shift that restores the mean."""
        factor = np.ones_like(outputs.mean)
        return Correction("bias corrected", factor, outputs.shift(factor))
