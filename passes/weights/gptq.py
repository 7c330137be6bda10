"""GPTQ for Conv, ConvTranspose, Gemm and MatMul: the maths is in `passes.numerics.gptq`, the data comes from the walk.

After the sweep the bias takes up what is left of the mean output error, ``E[W X] - E[Ŵ X̂]`` (Nagel et al. 2019, §4.2).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from passes.base import LayerPass, Problem, Solution
from passes.errors import QuantizationError
from passes.numerics.asymmetric_target import asymmetric_target
from passes.numerics.error import decibel
from passes.numerics.few_rows import damping_for_few_rows, has_few_rows
from passes.numerics.gptq import GptqResult, gptq, output_error
from passes.numerics.grid import Floats
from passes.numerics.moments import Moments

__all__ = ["Gptq"]


@dataclass(frozen=True)
class Gptq(LayerPass):
    """GPTQ.

    Attributes:
        damping: λ as a share of the mean of the Hessian's diagonal.
        act_order: inputs with the largest mean square first.
        scale: "hessian" searches each channel's scale by what an error costs the sweep, "absmax" takes the largest
            weight's.
        asymmetric_target: make up for the errors of the layers before, and of what an Add adds to the output, as far as
            it holds on held-out images (needs `sequential`).
        bias_correction: let the bias take up the mean output error; the codes then only answer for what varies.
        beam: roundings kept in the sweep of a small layer, on scales around the one searched; 1 keeps GPTQ's own.
        few_rows: where a layer has fewer rows than inputs, choose its damping on held-out images (needs `sequential`).
        refine: rounds of single-code and scale descent after the sweep.
    """

    name: ClassVar[str] = "gptq"

    damping: float = 0.05
    act_order: bool = True
    scale: Literal["hessian", "absmax"] = "hessian"
    asymmetric_target: bool = True
    bias_correction: bool = True
    beam: int = 8
    few_rows: bool = True
    refine: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.damping <= 10:
            raise ValueError(f"damping must be above 0 and at most 10, not {self.damping}")
        if self.beam < 1:
            raise ValueError(f"beam must be at least 1, not {self.beam}")
        if self.refine < 0:
            raise ValueError(f"refine must not be negative, not {self.refine}")

    @property
    def searches(self) -> bool:
        """Whether scales are searched, by what an error costs the sweep."""
        return self.scale == "hessian"

    def solve(self, problem: Problem) -> Solution:
        """Codes, grid and bias of one layer; errors are of its output on the quantized network's inputs.

        Raises:
            QuantizationError: the Hessian is not positive definite even with damping 1.
        """
        weight, moments = problem.weight, problem.moments
        if moments is None:
            raise QuantizationError(f"{problem.layer.name}: GPTQ needs calibration data; use --calibration")
        correct = self.bias_correction and problem.layer.op != "MatMul"  # which has no bias
        varying = moments.centered() if correct else moments.about(None)
        target, why = self._target(weight, varying)
        try:
            result, note = self.rounded(target, varying, problem)
        except np.linalg.LinAlgError as error:
            raise QuantizationError(
                f"{problem.layer.name}: the Hessian of {moments.rows} rows cannot be factorised ({error}); "
                f"use more calibration images or a larger damping than {self.damping}"
            ) from error
        values = result.grid.values(result.codes)
        bias = problem.bias
        if correct:
            correction = np.einsum("gok,gk->go", weight, moments.mean) - np.einsum(
                "gok,gk->go", values, moments.mean_quantized
            )
            if moments.mean_residual is not None and self.asymmetric_target:
                correction = correction + moments.mean_residual
            bias = correction if bias is None else bias + correction
        plain = self.grid_form(problem).plain().grid(weight, min_scale=problem.min_scale)
        rounded = plain.values(plain.codes(weight))
        return Solution(
            result.codes,
            result.grid,
            bias,
            before_db=decibel(1.0, output_error(target, rounded, varying.hessian)),
            after_db=decibel(1.0, output_error(target, values, varying.hessian)),
            note=", ".join(part for part in (why, note) if part),
        )

    def _target(self, weight: Floats, moments: Moments) -> tuple[Floats, str]:
        """What the codes should approximate, and why it is the weight itself if it should have been moved."""
        if not self.asymmetric_target:
            return weight, ""
        try:
            return asymmetric_target(weight, moments), ""
        except np.linalg.LinAlgError as error:
            return weight, f"errors of the layers before not made up for (Hessian {error})"

    def rounded(self, target: Floats, moments: Moments, problem: Problem) -> tuple[GptqResult, str]:
        """Codes and grid for ``target`` ``[g, o, k]`` and the rows that ``moments`` describe, and a note."""
        form, damping, notes = self.grid_form(problem), self.damping, []
        if self.few_rows and has_few_rows(moments):
            damping = damping_for_few_rows(
                target, moments, form, damping, min_scale=problem.min_scale, rounds=self.refine
            )
            if damping > self.damping:
                notes.append(f"damping {damping:g} chosen on held-out images")
        result = gptq(
            target,
            moments,
            form,
            min_scale=problem.min_scale,
            damping=damping,
            act_order=self.act_order,
            rounds=self.refine,
            beam=self.beam,
        )
        if result.damping > damping:
            notes.append(f"damping raised to {result.damping:g}")
        return result, ", ".join(notes)
