"""GPTQ for Conv, ConvTranspose, Gemm and MatMul.

`passes.numerics.gptq` has the mathematics. Sequential calibration provides the moments. After the sweep, the bias
corrects the remaining mean of the output error, ``E[W X] - E[Ŵ X̂]`` (Nagel et al. 2019, §4.2).
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np

from passes.base import LayerPass, Problem, Solution
from passes.errors import QuantizationError
from passes.numerics.asymmetric_target import asymmetric_target
from passes.numerics.error import decibel
from passes.numerics.few_rows import damping_for_few_rows, has_few_rows
from passes.numerics.gptq import GptqResult, gptq, output_errors
from passes.numerics.grid import Floats
from passes.numerics.moments import Moments
from passes.numerics.sparsity import Pruned

__all__ = ["Gptq"]

_WORTH_A_BIAS = 2048  # weights of a layer; a bias takes about 400 bytes and 12 for each output
_FEW_BITS = 4  # below, mean errors are large
_LARGE = 0.2  # of the output's power: what a wrong mean alone may take from a small layer


@dataclass(frozen=True)
class Gptq(LayerPass):
    """GPTQ.

    Attributes:
        damping: λ as a share of the mean of the Hessian's diagonal.
        act_order: Whether inputs are rounded by falling mean square.
        scale: "hessian" searches each channel's scale by the cost of errors in the sweep. "absmax" takes the scale of
            the largest weight.
        asymmetric_target: Whether to compensate for errors of the layers before, and of a tensor that an Add adds to
            the output, as far as that helps on held-out samples (needs `sequential`).
        bias_correction: Whether the bias corrects the mean output error. The codes then minimise the rest. From 4 bits
            on, a layer of fewer than 2,048 weights without a bias gets one only if the mean error has a fifth of the
            output's power, since a bias takes more bytes than 4 bits save there.
        beam: Number of partial roundings that are kept in the sweep of a small layer, for several scales around the
            searched one. 1 is GPTQ itself.
        few_rows: Whether the damping of a layer with fewer rows than inputs is chosen on held-out samples (needs
            `sequential`).
        refine: Rounds of coordinate descent over codes and scales after the sweep.

    Raises:
        ValueError: A field is out of range.
    """

    name: ClassVar[str] = "gptq"
    title: ClassVar[str] = "GPTQ"
    """Name of the method in messages."""

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
        """Whether scales are searched, by the cost of errors in the sweep."""
        return self.scale == "hessian"

    @property
    def reads_cross(self) -> bool:
        """Whether `solve` reads cross moments. The asymmetric target needs only their product with the weight."""
        return not self.asymmetric_target

    def alone(self) -> Self:
        """Without what makes up for the layers before, and without what takes long."""
        return dataclasses.replace(
            self, sequential=False, asymmetric_target=False, beam=1, few_rows=False, refine=min(1, self.refine)
        )

    def solve(self, problem: Problem) -> Solution:
        """Return codes, grid and bias of one layer. Errors are those of its output on the quantized network's inputs.

        Raises:
            QuantizationError: There is no calibration data, or the Hessian is not positive definite even with damping
                1.
        """
        weight, moments = problem.weight, problem.moments
        if moments is None:
            raise QuantizationError(f"{problem.layer.name}: {self.title} needs calibration data; use `calibration=`")
        correct = self.bias_correction and problem.layer.op != "MatMul"  # MatMul has no bias
        small = weight.size < _WORTH_A_BIAS and self.grid_form(problem).bits >= _FEW_BITS
        cheap = problem.bias is not None or not small
        varying = moments.centered() if correct and cheap else moments.about(None)
        target, why = self.target_of(weight, varying)
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
            if cheap or _is_large(correction, weight, varying.hessian):
                bias = correction if bias is None else bias + correction
        plain = self.grid_form(problem).plain().grid(weight, min_scale=problem.min_scale)
        rounded = plain.values(plain.codes(weight))
        before, after = output_errors(target, (rounded, values), varying.hessian)
        return Solution(
            result.codes,
            result.grid,
            bias,
            before_db=decibel(1.0, before),
            after_db=decibel(1.0, after),
            note=", ".join(part for part in (*self.notes(problem), why, note) if part),
            pruned=None if result.kept is None else Pruned(result.kept, self.removes),
        )

    def target_of(self, weight: Floats, moments: Moments) -> tuple[Floats, str]:
        """Return the target of the codes ``[g, o, k]``, and a note if the asymmetric target could not be computed."""
        if not self.asymmetric_target:
            return weight, ""
        try:
            return asymmetric_target(weight, moments), ""
        except np.linalg.LinAlgError as error:
            return weight, f"errors of earlier layers not compensated (Hessian {error})"

    @property
    def removes(self) -> str:
        """Pattern in which weights are removed. Empty: none are."""
        return ""

    def solver_of(self, problem: Problem) -> Callable[..., GptqResult]:
        """Return what finds codes and grid of a layer, with the arguments of `passes.numerics.gptq.gptq`."""
        return gptq

    def notes(self, problem: Problem) -> tuple[str, ...]:
        """Return what the report should say of a layer besides what `rounded` says."""
        return ()

    def rounded(self, target: Floats, moments: Moments, problem: Problem) -> tuple[GptqResult, str]:
        """Return codes and grid for a target, and a note.

        Args:
            target: Weight that the codes should approximate, ``[g, o, k]``.
            moments: Moments of the layer's rows.
            problem: The layer's problem.

        Raises:
            numpy.linalg.LinAlgError: The Hessian is not positive definite even with damping 1.
        """
        form, damping, notes = self.grid_form(problem), self.damping, []
        solve = self.solver_of(problem)
        if self.few_rows and has_few_rows(moments):
            damping = damping_for_few_rows(
                target, moments, form, damping, min_scale=problem.min_scale, rounds=self.refine, solve=solve
            )
            if damping > self.damping:
                notes.append(f"damping {damping:g} chosen on held-out samples")
        result = solve(
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


def _is_large(correction: Floats, weight: Floats, hessian: Floats) -> bool:
    """Whether the mean error ``[g, o]`` of a layer has so much of its output's power that a bias is worth its bytes."""
    power = float(np.einsum("gok,gok->", weight @ hessian, weight, optimize=True)) / 2
    return float(np.square(correction).sum()) > _LARGE * power
