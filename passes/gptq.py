"""GPTQ for Conv, ConvTranspose, Gemm and MatMul: the maths is in `passes.numerics.gptq`, the data comes from the walk.

After the sweep the bias takes up what is left of the mean output error, ``E[W X] - E[Ŵ X̂]`` (Nagel et al. 2019, §4.2).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from passes.base import LayerPass, Problem, Solution
from passes.errors import QuantizationError
from passes.numerics.error import decibel
from passes.numerics.gptq import gptq, output_error
from passes.numerics.scale import absmax_grid

__all__ = ["Gptq"]


@dataclass(frozen=True)
class Gptq(LayerPass):
    """GPTQ.

    Attributes:
        damping: λ as a share of the mean of the Hessian's diagonal.
        act_order: inputs with the largest mean square first.
        asymmetric_target: make up for the errors of the layers before (needs `sequential`).
        bias_correction: let the bias take up the mean output error.
    """

    name: ClassVar[str] = "gptq"

    damping: float = 0.01
    act_order: bool = True
    asymmetric_target: bool = True
    bias_correction: bool = True

    def solve(self, problem: Problem) -> Solution:
        """Codes, grid and bias of one layer; errors are of its output on the quantized network's inputs.

        Raises:
            QuantizationError: the Hessian is not positive definite even with damping 1.
        """
        weight, moments = problem.weight, problem.moments
        if moments is None:
            raise QuantizationError(f"{problem.layer.name}: GPTQ needs calibration data; use --calibration")
        try:
            result = gptq(
                weight,
                moments,
                problem.bits,
                block=problem.block,
                symmetric=self.symmetric,
                floor=problem.floor,
                damping=self.damping,
                act_order=self.act_order,
                asymmetric_target=self.asymmetric_target,
            )
        except np.linalg.LinAlgError as error:
            raise QuantizationError(
                f"{problem.layer.name}: the Hessian of {moments.rows} rows cannot be factorised ({error}); "
                f"use more calibration images or a larger damping than {self.damping}"
            ) from error
        values = result.grid.values(result.codes)
        bias = problem.bias
        if self.bias_correction:
            correction = np.einsum("gok,gk->go", weight, moments.mean) - np.einsum(
                "gok,gk->go", values, moments.mean_quantized
            )
            bias = correction if bias is None else bias + correction
        plain = absmax_grid(weight, problem.bits, block=problem.block, symmetric=self.symmetric, floor=problem.floor)
        rounded = plain.values(plain.codes(weight))
        note = f"damping raised to {result.damping:g}" if result.damping > self.damping else ""
        return Solution(
            result.codes,
            result.grid,
            bias,
            before_db=decibel(1.0, output_error(weight, rounded, moments.hessian)),
            after_db=decibel(1.0, output_error(result.target, values, moments.hessian)),
            note=note,
        )
