"""Qronos: GPTQ whose first code corrects the errors of the layers before; see `passes.numerics.qronos`.

Scale search, bias correction and refinement are those of `passes.weights.gptq`.
"""

from dataclasses import dataclass
from typing import ClassVar

from passes.base import Problem
from passes.numerics.gptq import GptqResult
from passes.numerics.grid import Floats
from passes.numerics.moments import Moments
from passes.numerics.qronos import qronos
from passes.weights.one_sweep import OneSweep

__all__ = ["Qronos"]


@dataclass(frozen=True)
class Qronos(OneSweep):
    """Qronos: GPTQ whose first code corrects the errors of the layers before.

    Raises:
        ValueError: A field is out of range.
    """

    name: ClassVar[str] = "qronos"
    title: ClassVar[str] = "Qronos"

    def swept(self, weight: Floats, moments: Moments, problem: Problem) -> GptqResult:
        """Return Qronos' codes and their grid.

        Raises:
            numpy.linalg.LinAlgError: The Hessian is not positive definite even with damping 1.
        """
        return qronos(
            weight,
            moments,
            self.grid_form(problem),
            min_scale=problem.min_scale,
            damping=self.damping,
            act_order=self.act_order,
        )
