"""OBQ for small layers: like GPTQ, but every row chooses its own order of weights; see `passes.numerics.obq`.

The cost grows with the fourth power of a layer's size. So layers with many inputs use GPTQ, and the report says so.
Target, grid, bias correction and refinement are those of `passes.weights.gptq`.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from passes.base import Problem
from passes.numerics.gptq import GptqResult, damped
from passes.numerics.grid import Floats
from passes.numerics.moments import Moments
from passes.numerics.obq import obq
from passes.numerics.refine import refine
from passes.weights.gptq import Gptq

__all__ = ["Obq"]


@dataclass(frozen=True)
class Obq(Gptq):
    """OBQ. It has the fields of `Gptq`, of which `act_order` matters only to layers that use GPTQ.

    Attributes:
        largest_inputs: Most inputs per group of a layer that OBQ solves. Larger layers use GPTQ.

    Raises:
        ValueError: A field is out of range.
    """

    name: ClassVar[str] = "obq"
    title: ClassVar[str] = "OBQ"

    largest_inputs: int = 288

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.largest_inputs < 1:
            raise ValueError(f"largest_inputs must be at least 1, not {self.largest_inputs}")

    def rounded(self, target: Floats, moments: Moments, problem: Problem) -> tuple[GptqResult, str]:
        """Return OBQ's codes on GPTQ's grid, or GPTQ's codes if the layer is too large, and a note.

        Raises:
            numpy.linalg.LinAlgError: The Hessian is not positive definite even with damping 1.
        """
        inputs = target.shape[2]
        if inputs > self.largest_inputs:
            result, note = super().rounded(target, moments, problem)
            reason = f"by GPTQ: {inputs} inputs are more than largest_inputs {self.largest_inputs}"
            return result, ", ".join(part for part in (reason, note) if part)
        start, note = Gptq.rounded(replace(self, refine=0), target, moments, problem)
        hessian = damped(moments.hessian, start.damping)
        codes, grid = obq(target, hessian, start.grid), start.grid
        codes, grid = refine(target, codes, grid, hessian, rounds=self.refine, min_scale=problem.min_scale)
        return GptqResult(codes, grid, start.damping), note
