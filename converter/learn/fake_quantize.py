"""Quantization inside a float network, with gradients: what a block computes once its weights are codes.

Activations go through their 8-bit grid with the straight-through estimator. A weight is ``s (q - z)``, and all of it is
learned: the codes q, by whole steps and as many as it takes (not only up or down: Yvinec et al. 2023, arXiv 2308.07662;
`converter.learn.moves` makes them), the scale s of each channel or block (LSQ, Esser et al. 2020, arXiv 1902.08153),
and the layer's bias.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from converter.learn.operators import Program
from passes.linear import Linear
from passes.numerics.grid import ActivationGrid, Codes, Floats, Grid, code_range

__all__ = ["LearnedWeight", "QuantizedBlock", "fake_quantize", "holding", "multiple_of", "spread", "stored", "whole"]

BIAS_HEADROOM = 2.0**29  # int32 biases use a quarter of their range, as in `converter.walk`


def fake_quantize(x: Tensor, grid: ActivationGrid) -> Tensor:
    """Values of any shape on their grid; the gradient passes where they are within its range."""
    low, high = grid.code_range
    return torch.fake_quantize_per_tensor_affine(x, float(grid.scale), grid.zero_point, low, high)


class LearnedWeight(nn.Module):
    """One layer's codes, scales and bias as they are learned; as it is made, it computes exactly what it was given.

    `nudge` is zero and stays so: its gradient is that of the codes.

    Args:
        layer: its geometry.
        codes: ``[g, o, k]`` on ``grid``.
        bias: ``[g, o]``, or None.
        unit: ``[g, o]``, what a bias parameter of 1 stands for: the spread of the layer's output.
        input_scale: of the grid of the layer's input; the weight's scale is kept large enough for an int32 bias. None:
            the bias stays in float.
    """

    codes: Tensor
    scale: Tensor
    multiple: Tensor
    zero_point: Tensor

    def __init__(
        self, layer: Linear, codes: Codes, grid: Grid, bias: Floats | None, unit: Floats, input_scale: float | None
    ) -> None:
        super().__init__()
        self.layer, self.grid, self.input_scale = layer, grid, input_scale
        self.low, self.high = code_range(grid.bits)
        _, zero_point = grid.spread(codes.shape[2])
        self.register_buffer("codes", torch.from_numpy(codes.astype(np.float32)))
        self.register_buffer("scale", torch.from_numpy(grid.scale.copy()))
        self.register_buffer("zero_point", torch.from_numpy(zero_point.astype(np.float32)))
        self.register_buffer("multiple", multiple_of(grid, codes.shape[2]))
        self.register_buffer("start", None if bias is None else torch.from_numpy(bias.copy()))
        self.register_buffer("unit", torch.from_numpy(unit.astype(np.float32)))
        self.nudge = nn.Parameter(torch.zeros_like(self.codes))
        self.growth = nn.Parameter(torch.zeros_like(self.scale))  # of the scale's logarithm
        self.shift = None if bias is None else nn.Parameter(torch.zeros(bias.shape))

    def forward(self) -> Tensor:
        """The weight as the node stores it."""
        scale = spread(self.scales(), self.grid.block, self.codes.shape[2])
        return stored(self.layer, (self.codes + self.nudge - self.zero_point) * self.multiple * scale)

    def scales(self) -> Tensor:
        """``[g, o, b]``."""
        scale = self.scale * torch.exp(self.growth)
        bias = self.bias()
        if bias is None or self.input_scale is None:
            return scale
        return holding(scale, bias, self.input_scale)

    def bias(self) -> Tensor | None:
        """``[g, o]``."""
        return None if self.shift is None else cast(Tensor, self.start) + self.shift * cast(Tensor, self.unit)

    def deployed_bias(self) -> Tensor | None:
        """`bias` as the int32 that the file holds: at few bits its steps are no small part of an activation's."""
        bias = self.bias()
        if bias is None or self.input_scale is None or not self.grid.per_channel:
            return bias
        return whole(bias, self.scales()[:, :, 0] * self.input_scale)

    @torch.no_grad()
    def solution(self) -> tuple[Codes, Grid, Floats | None]:
        """Codes ``[g, o, k]``, their grid and the bias ``[g, o]``, as they are now."""
        bias = self.bias()
        grid = replace(self.grid, scale=self.scales().cpu().numpy())
        return self.codes.cpu().numpy().astype(np.int8), grid, None if bias is None else bias.cpu().numpy()


class QuantizedBlock(nn.Module):
    """A program whose layers' weights are learned and whose activations are fake-quantized.

    Args:
        program: of the block.
        weights: by the name of the constant each replaces.
        biases: name of the weight by the name of the bias that belongs to it.
        ranges: grids by tensor name; the block's inputs are expected to be on theirs.
    """

    def __init__(
        self,
        program: Program,
        weights: Mapping[str, LearnedWeight],
        biases: Mapping[str, str],
        ranges: Mapping[str, ActivationGrid],
    ) -> None:
        super().__init__()
        self.program, self.biases, self.ranges = program, dict(biases), dict(ranges)
        self.names = list(weights)
        self.weights = nn.ModuleList(weights.values())

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The block's outputs by name."""
        learned = dict(zip(self.names, self.learned(), strict=True))
        constants: dict[str, Tensor] = {name: weight() for name, weight in learned.items()}
        for name, owner in self.biases.items():
            bias = learned[owner].deployed_bias()
            if bias is not None:
                constants[name] = bias.reshape(-1)
        return self.program(inputs, constants, self._quantize)

    def learned(self) -> list[LearnedWeight]:
        """The weights, in the order of `names`."""
        return cast("list[LearnedWeight]", list(self.weights))

    def _quantize(self, name: str, value: Tensor) -> Tensor:
        grid = self.ranges.get(name)
        return value if grid is None else fake_quantize(value, grid)


def holding(scale: Tensor, bias: Tensor, input_scale: Tensor | float) -> Tensor:
    """Scales ``[g, o, b]``, raised to where biases ``[g, o]`` fit int32 with room to spare."""
    floor = bias.detach().abs() / (input_scale * BIAS_HEADROOM)  # [g, o]
    return torch.maximum(scale, floor[:, :, None])


def whole(bias: Tensor, step: Tensor) -> Tensor:
    """Biases ``[g, o]`` as integers times ``step``, as the file holds them; the gradient passes."""
    step = step.detach()
    return bias + (torch.round(bias.detach() / step) * step - bias.detach())


def spread(scale: Tensor, block: int | None, k: int) -> Tensor:
    """Scales ``[g, o, b]`` for every one of k inputs, or as they are where a channel has one."""
    return scale if block is None or scale.shape[2] == 1 else scale.repeat_interleave(block, dim=2)[:, :, :k]


def multiple_of(grid: Grid, k: int) -> Tensor:
    """What the channel's scale is multiplied by at each of k inputs: ``[g, o, k]``, or a one."""
    if grid.multiples is None:
        return torch.ones(())
    return torch.from_numpy(grid.multiple(k).astype(np.float32))


def stored(layer: Linear, matrix: Tensor) -> Tensor:
    """`Linear.stored` with gradients: ``[g, o, k]`` as the node stores it."""
    if layer.op == "Conv":
        return matrix.reshape(layer.weight_shape)
    if layer.op == "ConvTranspose":
        g, o, _ = layer.matrix_shape
        split = matrix.reshape(g, o, layer.weight_shape[0] // g, *layer.kernel).transpose(1, 2)  # [g, i, o, *taps]
        return split.flip(tuple(range(3, split.ndim))).reshape(layer.weight_shape)
    return matrix[0] if layer.transposed else matrix[0].t()
