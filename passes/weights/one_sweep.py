"""What the passes of GPFQ and Qronos have in common: one sweep over the inputs of both networks.

Scale search, bias correction, refinement and the target of the reported SQNR are those of `passes.weights.gptq`.
"""

from dataclasses import dataclass, replace

from passes.base import Problem
from passes.errors import QuantizationError
from passes.numerics.gptq import GptqResult, damped
from passes.numerics.grid import Floats
from passes.numerics.moments import Moments
from passes.numerics.refine import refine
from passes.weights.gptq import Gptq

__all__ = ["OneSweep"]


@dataclass(frozen=True)
class OneSweep(Gptq):
    """Base of passes that round each weight once. Subclasses set `name` and override `swept`.

    Attributes:
        asymmetric_target: Whether the float network's inputs are used, so that errors of the layers before are
            corrected (needs `sequential`). If not, the quantized network's inputs stand for them.
        beam: Always 1: one rounding is kept.
        few_rows: Always false: no damping is chosen on held-out samples.
        refine: Rounds of coordinate descent towards GPTQ's asymmetric target after the sweep. 0 is the method itself.

    Raises:
        ValueError: A field is out of range.
    """

    beam: int = 1
    few_rows: bool = False
    refine: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beam != 1:
            raise ValueError(f"beam of {self.name} can only be 1, not {self.beam}; gptq has a beam")
        if self.few_rows:
            raise ValueError(f"few_rows of {self.name} can only be false; gptq chooses its damping on held-out samples")

    def swept(self, weight: Floats, moments: Moments, problem: Problem) -> GptqResult:
        """Return codes and grid of a weight ``[g, o, k]`` by the method itself."""
        raise QuantizationError(f"{type(self).__name__} does not override swept()")

    def target_of(self, weight: Floats, moments: Moments) -> tuple[Floats, str]:
        """Return GPTQ's target, which judges the codes. The sweep does not use it, so a failure needs no note."""
        return super().target_of(weight, moments)[0], ""

    def rounded(self, target: Floats, moments: Moments, problem: Problem) -> tuple[GptqResult, str]:
        """Return codes and grid of the layer's weight, and a note.

        Raises:
            numpy.linalg.LinAlgError: The Hessian is not positive definite even with damping 1.
        """
        seen = moments if self.asymmetric_target else replace(moments, cross=None, residual=None)
        result = self.swept(problem.weight, seen, problem)
        note = f"damping raised to {result.damping:g}" if result.damping > self.damping else ""
        if not self.refine:
            return result, note
        curvature = damped(moments.hessian, result.damping)
        codes, grid = refine(
            target, result.codes, result.grid, curvature, rounds=self.refine, min_scale=problem.min_scale
        )
        return GptqResult(codes, grid, result.damping), note
