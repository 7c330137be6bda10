"""GPFQ: every code makes the error of the output so far least, and no other weight moves; see `passes.numerics.gpfq`.

Scale search, bias correction and refinement are those of `passes.weights.gptq`.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from passes.base import Problem
from passes.numerics.gpfq import gpfq
from passes.numerics.gptq import GptqResult, importance_of, inverse_factor, permuted, rounding_order
from passes.numerics.grid import Floats
from passes.numerics.moments import Moments
from passes.weights.one_sweep import OneSweep

__all__ = ["Gpfq"]


@dataclass(frozen=True)
class Gpfq(OneSweep):
    """GPFQ, greedy path following.

    Attributes:
        damping: λ of the scale search and of the refinement, as a share of the mean of the Hessian's diagonal. The
            codes need none.

    Raises:
        ValueError: A field is out of range.
    """

    name: ClassVar[str] = "gpfq"
    title: ClassVar[str] = "GPFQ"

    @property
    def reads_cross(self) -> bool:
        """Always true: every code is chosen by the cross moments of the inputs up to its own."""
        return True

    def swept(self, weight: Floats, moments: Moments, problem: Problem) -> GptqResult:
        """Return GPFQ's codes on the grid that GPTQ would search for this weight.

        Raises:
            numpy.linalg.LinAlgError: The Hessian is not positive definite even with damping 1.
        """
        order = rounding_order(moments, self.act_order)
        factor, damping = inverse_factor(permuted(moments.hessian, order), self.damping)
        importance = importance_of(factor.astype(np.float32), order)
        grid = self.grid_form(problem).grid(weight, importance, problem.min_scale)
        return GptqResult(gpfq(weight, moments, grid, order), grid, damping)
