"""Learned step sizes: weights and activations on grids whose scales are parameters.

Esser et al. 2020 (LSQ, arXiv 1902.08153). With ``v = clip(x / s, low, high)`` a value becomes ``s round(v)``; rounding
lets gradients through (equation 5), so that the scale's is ``round(v) - v`` within the range and the bound outside it
(equation 3). Every parameter here is a pure number: weights are in steps of their starting grid, scales are the
logarithm of their growth, biases are in standard deviations of their layer's output. So one rate suits all of them,
which LSQ reaches by a factor on the scales' gradients (§2.2), whatever batch normalization was folded into a layer.
"""

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from converter.learn.quantized_weight import QuantizedWeight
from passes.ir.linear import Linear
from passes.numerics.grid import ActivationGrid, Codes, Floats, Grid

__all__ = ["StepGrid", "StepWeight"]

_MOST_GROWTH = math.log(16)  # of a scale, and shrinkage


class StepGrid(nn.Module):
    """The 8-bit grid of activation tensors, its zero point fixed.

    Args:
        grid: where it starts.
        learned: whether the scale is a parameter.
        bound: largest value that an absorbed clamp lets through; the grid does not grow past it.
    """

    growth: Tensor

    def __init__(self, grid: ActivationGrid, *, learned: bool, bound: float = math.inf) -> None:
        super().__init__()
        self.grid = grid
        self.low, self.high = (code - grid.zero_point for code in grid.code_range)
        room = math.log(bound / (self.high * float(grid.scale))) if self.high > 0 else math.inf
        self.most = max(room, 0.0)
        if learned:
            self.growth = nn.Parameter(torch.zeros(()))
        else:
            self.register_buffer("growth", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Values of any shape on the grid."""
        return cast(Tensor, _OnGrid.apply(x, self.step(), self.low, self.high))  # type: ignore[no-untyped-call]

    def step(self) -> Tensor:
        """The scale, a positive scalar."""
        return float(self.grid.scale) * torch.exp(self.growth)

    @torch.no_grad()
    def confine(self) -> None:
        """Bring the scale back into its bounds; a clamp in `step` would have no gradient past them."""
        self.growth.clamp_(-_MOST_GROWTH, min(self.most, _MOST_GROWTH))

    def solution(self) -> ActivationGrid:
        """The grid as it is now."""
        scale = np.float32(self.step().item())
        grown = float(scale) / float(self.grid.scale)
        return ActivationGrid(
            scale, self.grid.zero_point, self.grid.signed, self.grid.low * grown, self.grid.high * grown
        )


class StepWeight(QuantizedWeight):
    """One layer's weight and bias as they are trained.

    A weight starts on its code, not at its float value, half a step from the next: a code changes only where training
    keeps asking for it. GPTQ's codes make up for each other's errors, and many that change at once lose that.

    Args:
        layer, grid, bias: see `QuantizedWeight`.
        codes: ``[g, o, k]`` on ``grid``.
        unit: standard deviation of the layer's output, what a bias parameter of 1 stands for.
        inputs: grid of the layer's input, for the step of an int32 bias; None: the bias stays in float.
    """

    def __init__(
        self, layer: Linear, codes: Codes, grid: Grid, bias: Floats | None, unit: float, inputs: StepGrid | None
    ) -> None:
        super().__init__(layer, grid, bias, unit)
        self.weight = nn.Parameter(torch.from_numpy(codes.astype(np.float32)) - self.zero_point)
        self.inputs = [] if inputs is None else [inputs]  # in a list: it is another module's, not part of this one

    def levels(self, scale: Tensor) -> Tensor:
        """Weights in whole steps of the grid as it is now, ``[g, o, k]``, within its range."""
        value = self.weight * self.spread(self.start_scale / scale)
        return _rounded(torch.clamp(value, self.low - self.zero_point, self.high - self.zero_point))

    def input_scale(self) -> Tensor | None:
        """The scale of the layer's input as it is now; None: the bias stays in float."""
        return self.inputs[0].step().detach() if self.inputs else None

    @torch.no_grad()
    def confine(self) -> None:
        """Bring the scales back into their bounds."""
        self.growth.clamp_(-_MOST_GROWTH, _MOST_GROWTH)


class _OnGrid(torch.autograd.Function):
    """Activations on a grid, with the gradients of LSQ; torch's own kernel does the forward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        y = torch.fake_quantize_per_tensor_affine(x, float(scale), 0, low, high)
        ctx.save_for_backward(x, y, scale)
        ctx.bounds = (low, high)
        return y

    @staticmethod
    def backward(ctx: FunctionCtx, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        held: Any = ctx
        x, y, scale = held.saved_tensors
        (slope,), (low, high) = slopes, held.bounds
        inside = (x >= (low - 0.5) * scale) & (x <= (high + 0.5) * scale)
        passed = slope * inside
        if not held.needs_input_grad[1]:
            return passed, None, None, None
        growth = torch.where(inside, y - x, y) / scale  # round(v) - v, or the bound
        return passed, (slope * growth).sum(), None, None


def _rounded(x: Tensor) -> Tensor:
    """To the nearest integer, ties to even; the gradient passes."""
    return x + (torch.round(x) - x).detach()
