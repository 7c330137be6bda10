"""Learned step sizes: weights and activations on grids whose scales are parameters.

Esser et al. 2020 (LSQ, arXiv 1902.08153). With ``v = clip(x / s, low, high)`` a value becomes ``s round(v)``; rounding
lets gradients through (equation 5), so that the scale's is ``round(v) - v`` within the range and the bound outside it
(equation 3), times ``1 / sqrt(n high)`` (§2.2), n being the number of values that share it.
"""

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from converter.learn.fake_quantize import BIAS_HEADROOM, stored
from passes.linear import Linear
from passes.numerics.grid import ActivationGrid, Codes, Floats, Grid, code_range

__all__ = ["StepGrid", "StepWeight"]

_LEAN = 0.45  # of a step: how far from its code a weight starts towards its float value
_LEAST = 1 / 16  # of a scale's start: it stays positive


class StepGrid(nn.Module):
    """The 8-bit grid of activation tensors, its zero point fixed.

    Args:
        grid: where it starts.
        learned: whether the scale is a parameter.
        bound: largest value that an absorbed clamp lets through; the grid does not grow past it.
    """

    scale: Tensor

    def __init__(self, grid: ActivationGrid, *, learned: bool, bound: float = math.inf) -> None:
        super().__init__()
        self.grid = grid
        self.low, self.high = (code - grid.zero_point for code in grid.code_range)
        start = torch.tensor(float(grid.scale))
        self.most = max(float(grid.scale), bound / self.high) if self.high else math.inf
        if learned:
            self.scale = nn.Parameter(start)
        else:
            self.register_buffer("scale", start)
        self.least = float(grid.scale) * _LEAST

    def forward(self, x: Tensor) -> Tensor:
        """Values of any shape on the grid."""
        factor = 1 / math.sqrt(max(1, x[0].numel()) * max(self.high, -self.low))
        return cast(Tensor, _OnGrid.apply(x, self.step(), self.low, self.high, factor))  # type: ignore[no-untyped-call]

    def step(self) -> Tensor:
        """The scale, a positive scalar."""
        return self.scale.clamp(self.least, self.most)

    def solution(self) -> ActivationGrid:
        """The grid as it is now."""
        scale = np.float32(self.step().item())
        grown = float(scale) / float(self.grid.scale)
        return ActivationGrid(
            scale, self.grid.zero_point, self.grid.signed, self.grid.low * grown, self.grid.high * grown
        )


class StepWeight(nn.Module):
    """One layer's weight and bias as they are trained; as it is made, its codes are those it was given.

    The weight starts near its codes, up to 0.45 of a step towards ``exact``, so that what rounding decided holds until
    training has a reason to change it.

    Args:
        layer: its geometry.
        codes: ``[g, o, k]`` on ``grid``.
        bias: ``[g, o]``, or None.
        exact: the float weight ``[g, o, k]``.
        inputs: grid of the layer's input, for the step of an int32 bias; None: the bias stays in float.
    """

    zero_point: Tensor
    least: Tensor

    def __init__(
        self, layer: Linear, codes: Codes, grid: Grid, bias: Floats | None, exact: Floats, inputs: StepGrid | None
    ) -> None:
        super().__init__()
        self.layer, self.grid = layer, grid
        self.low, self.high = code_range(grid.bits)
        scale, zero_point = grid.spread(codes.shape[2])
        whole = codes.astype(np.float32) - zero_point
        lean = np.clip(exact / scale - whole, -_LEAN, _LEAN)
        self.weight = nn.Parameter(torch.from_numpy((whole + lean) * scale))
        self.scale = nn.Parameter(torch.from_numpy(grid.scale.copy()))
        self.bias = None if bias is None else nn.Parameter(torch.from_numpy(bias.astype(np.float32)))
        self.register_buffer("zero_point", torch.from_numpy(zero_point.astype(np.float32)))
        self.register_buffer("least", torch.from_numpy(grid.scale * np.float32(_LEAST)))
        self.inputs = [] if inputs is None else [inputs]  # in a list: it is another module's, not part of this one
        shared = codes.shape[2] if grid.block is None else grid.block
        self.factor = 1 / math.sqrt(shared * self.high)

    def forward(self) -> tuple[Tensor, Tensor | None]:
        """The weight as the node stores it, and the bias ``[g * o]`` as the file's int32 holds it."""
        scale = _damped(self.scales(), self.factor)
        low, high = self.low - self.zero_point, self.high - self.zero_point
        spread = self._spread(scale)
        matrix = _rounded(torch.clamp(self.weight / spread, low, high)) * spread
        return stored(self.layer, matrix), self._deployed_bias()

    def scales(self) -> Tensor:
        """``[g, o, b]``, positive and large enough for an int32 bias."""
        scale = torch.maximum(self.scale, self.least)
        if self.bias is None or not self.inputs:
            return scale
        floor = self.bias.detach().abs() / (self.inputs[0].step().detach() * BIAS_HEADROOM)
        return torch.maximum(scale, floor[:, :, None])

    @torch.no_grad()
    def solution(self) -> tuple[Codes, Grid, Floats | None]:
        """Codes ``[g, o, k]``, their grid and the bias ``[g, o]``, as they are now."""
        scale = self.scales()
        low, high = self.low - self.zero_point, self.high - self.zero_point
        codes = torch.clamp(self.weight / self._spread(scale), low, high).round() + self.zero_point
        grid = Grid(self.grid.bits, scale.cpu().numpy(), self.grid.zero_point, self.grid.block)
        return codes.cpu().numpy().astype(np.int8), grid, None if self.bias is None else self.bias.cpu().numpy()

    def _spread(self, scale: Tensor) -> Tensor:
        if self.grid.block is None:
            return scale
        return scale.repeat_interleave(self.grid.block, dim=2)[:, :, : self.weight.shape[2]]

    def _deployed_bias(self) -> Tensor | None:
        if self.bias is None:
            return None
        if not self.inputs or self.grid.block is not None:
            return self.bias.reshape(-1)
        step = (self.scales()[:, :, 0] * self.inputs[0].step()).detach()
        whole = torch.round(self.bias.detach() / step) * step
        return (self.bias + (whole - self.bias).detach()).reshape(-1)


class _OnGrid(torch.autograd.Function):
    """Activations on a grid, with the gradients of LSQ; torch's own kernel does the forward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int, factor: float) -> Tensor:
        y = torch.fake_quantize_per_tensor_affine(x, float(scale), 0, low, high)
        ctx.save_for_backward(x, y, scale)
        ctx.bounds, ctx.factor = (low, high), factor
        return y

    @staticmethod
    def backward(ctx: FunctionCtx, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        held: Any = ctx
        x, y, scale = held.saved_tensors
        (slope,), (low, high) = slopes, held.bounds
        inside = (x >= (low - 0.5) * scale) & (x <= (high + 0.5) * scale)
        passed = slope * inside
        if not held.needs_input_grad[1]:
            return passed, None, None, None, None
        growth = torch.where(inside, y - x, y) / scale  # round(v) - v, or the bound
        return passed, (slope * growth).sum() * held.factor, None, None, None


def _rounded(x: Tensor) -> Tensor:
    """To the nearest integer, ties to even; the gradient passes."""
    return x + (torch.round(x) - x).detach()


def _damped(x: Tensor, factor: float) -> Tensor:
    """The same value, its gradient times ``factor``."""
    return x.detach() + (x - x.detach()) * factor
