"""Learned step size quantization (LSQ): weights and activations on grids whose scales are parameters.

Esser et al. 2020 (LSQ, arXiv 1902.08153). With ``v = clip(x / s, low, high)``, a value becomes ``s round(v)``. Rounding
passes gradients straight through (equation 5). So the gradient of the scale is ``round(v) - v`` within the range, and
the bound outside it (equation 3).

Every parameter here is dimensionless. Weights are in steps of their initial grid. A scale's parameter is the logarithm
of its growth. Biases are in standard deviations of their layer's output. So one learning rate suits all of them,
whatever batch normalization was folded into a layer. LSQ reaches the same with a factor on the scales' gradients
(§2.2).
"""

import functools
import math
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from converter.learn.quantized_weight import QuantizedWeight
from passes.ir.linear import Linear
from passes.numerics.grid import ActivationGrid, Codes, Floats, Grid

__all__ = ["StepGrid", "StepWeight"]

_MOST_GROWTH = math.log(16)  # bound of the change of a scale's logarithm, up and down


class StepGrid(nn.Module):
    """8-bit grid of activations. The scale can be learned, the zero point is fixed.

    Args:
        grid: Initial grid.
        learned: Whether the scale is a parameter.
        bound: Largest value that the clamp which the quantizer replaces lets through. The grid does not grow beyond it.
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
        """Values of any shape, rounded to the grid."""
        return cast(Tensor, _OnGrid.apply(x, self.step(), self.low, self.high))  # type: ignore[no-untyped-call]

    def step(self) -> Tensor:
        """The present scale, a positive scalar."""
        return float(self.grid.scale) * torch.exp(self.growth)

    @torch.no_grad()
    def confine(self) -> None:
        """Bring the scale back into its bounds. A clamp in `step` would have no gradient outside them."""
        self.growth.clamp_(-_MOST_GROWTH, min(self.most, _MOST_GROWTH))

    def solution(self) -> ActivationGrid:
        """The present grid."""
        scale = np.float32(self.step().item())
        grown = float(scale) / float(self.grid.scale)
        return replace(self.grid, scale=scale, low=self.grid.low * grown, high=self.grid.high * grown)


class StepWeight(QuantizedWeight):
    """Weight and bias of one layer, while they are trained.

    A weight starts on its code, not at its float value. So it is half a step away from the next code, and a code
    changes only if the gradients keep pointing there. The codes of GPTQ compensate for each other's errors, and many
    changes at once would destroy that.

    Args:
        layer: See `QuantizedWeight`.
        codes: Codes ``[g, o, k]`` on ``grid``.
        grid: See `QuantizedWeight`.
        bias: See `QuantizedWeight`.
        unit: See `QuantizedWeight`. Standard deviation of the layer's output.
        inputs: Grid of the layer's input, from which an int32 bias gets its step. None if the bias stays in float.
        kept: See `QuantizedWeight`.
    """

    def __init__(
        self,
        layer: Linear,
        codes: Codes,
        grid: Grid,
        bias: Floats | None,
        unit: float,
        inputs: StepGrid | None,
        kept: NDArray[np.bool_] | None = None,
    ) -> None:
        super().__init__(layer, grid, bias, unit, kept)
        self.weight = nn.Parameter(torch.from_numpy(codes.astype(np.float32)) - self.zero_point)
        self.peers = [self]  # a list, as below
        self.inputs = [] if inputs is None else [inputs]  # a list hides it from torch: it belongs to another module

    def share(self, other: "StepWeight") -> None:
        """Train one weight and one scale with another layer. The biases stay apart."""
        self.weight, self.growth = other.weight, other.growth
        other.peers.append(self)
        self.peers = other.peers

    def scales(self) -> Tensor:
        """Scales ``[g, o, b]``, large enough for the biases of all layers that share the weight."""
        scales = [QuantizedWeight.scales(peer) for peer in self.peers]
        return functools.reduce(torch.maximum, scales)

    def levels(self, scale: Tensor) -> Tensor:
        """Weights in whole steps of the present grid, ``[g, o, k]``, clipped to its range."""
        value = self.weight * self.spread(self.start_scale / scale)
        return _rounded(torch.clamp(value, self.low - self.zero_point, self.high - self.zero_point))

    def input_scale(self) -> Tensor | None:
        """The present scale of the layer's input. None if the bias stays in float."""
        return self.inputs[0].step().detach() if self.inputs else None

    @torch.no_grad()
    def confine(self) -> None:
        """Bring the scales back into their bounds."""
        self.growth.clamp_(-_MOST_GROWTH, _MOST_GROWTH)


class _OnGrid(torch.autograd.Function):
    """Rounds activations to a grid, with the gradients of LSQ. The forward pass uses torch's own kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        y = torch.fake_quantize_per_tensor_affine(x, float(scale), 0, low, high)
        ctx.save_for_backward(x, y, scale)
        ctx.bounds = (low, high)
        return y

    @staticmethod
    def backward(ctx: FunctionCtx, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        context: Any = ctx
        x, y, scale = context.saved_tensors
        (slope,), (low, high) = slopes, context.bounds
        inside = (x >= (low - 0.5) * scale) & (x <= (high + 0.5) * scale)
        passed = slope * inside
        if not context.needs_input_grad[1]:
            return passed, None, None, None
        growth = torch.where(inside, y - x, y) / scale  # round(v) - v inside, the bound outside
        return passed, (slope * growth).sum(), None, None


def _rounded(x: Tensor) -> Tensor:
    """Round to the nearest integer, ties to even. The gradient passes straight through."""
    return x + (torch.round(x) - x).detach()
