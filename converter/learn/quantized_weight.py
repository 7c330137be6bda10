"""A layer's weight and bias as its file computes them, with gradients to the scales and the bias.

A weight is ``s (q - z)``, or ``s m (q - z)`` where blocks have multiples of their channel's scale. The scales s of each
channel or block (LSQ, Esser et al. 2020, arXiv 1902.08153) and the layer's bias are parameters here; how the codes q
are learned, a subclass says.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from converter.calibration.sequential import BIAS_HEADROOM
from passes.errors import QuantizationError
from passes.ir.linear import Linear
from passes.ir.model import Model, Quantized
from passes.numerics.grid import Codes, Floats, Grid, code_range

__all__ = ["QuantizedWeight", "constants"]


class QuantizedWeight(nn.Module):
    """Scales and bias of one layer; as it is made, it computes what the grid does. Subclasses override `levels`.

    Args:
        layer: its geometry.
        grid: of the codes.
        bias: ``[g, o]``, or None.
        unit: the spread of the layer's output, what a bias parameter of 1 stands for; one number, or ``[g, o]``.
    """

    start_scale: Tensor
    zero_point: Tensor
    multiple: Tensor
    unit: Tensor

    def __init__(self, layer: Linear, grid: Grid, bias: Floats | None, unit: Floats | float) -> None:
        super().__init__()
        self.layer, self.grid = layer, grid
        self.low, self.high = code_range(grid.bits)
        k = layer.matrix_shape[2]
        _, zero_point = grid.spread(k)
        multiple = torch.ones(()) if grid.multiples is None else torch.from_numpy(grid.multiple(k).astype(np.float32))
        self.register_buffer("start_scale", torch.from_numpy(grid.scale.copy()))
        self.register_buffer("start_bias", None if bias is None else torch.from_numpy(bias.astype(np.float32)))
        self.register_buffer("zero_point", torch.from_numpy(zero_point.astype(np.float32)))
        self.register_buffer("multiple", multiple)
        self.register_buffer("unit", torch.tensor(unit, dtype=torch.float32), persistent=False)
        self.growth = nn.Parameter(torch.zeros(grid.scale.shape))  # of the scale's logarithm
        self.shift = None if bias is None else nn.Parameter(torch.zeros(bias.shape))

    def levels(self, scale: Tensor) -> Tensor:
        """Codes less their zero points ``[g, o, k]``, of weights on ``scale`` ``[g, o, b]``."""
        raise QuantizationError(f"{type(self).__name__} does not say what its codes are")

    def input_scale(self) -> Tensor | float | None:
        """The scale of the layer's input, for an int32 bias; None: the bias stays in float."""
        raise QuantizationError(f"{type(self).__name__} does not say what its inputs' scale is")

    def forward(self) -> tuple[Tensor, Tensor | None]:
        """The weight as the node stores it, and the bias ``[g * o]`` as the int32 that the file holds.

        At few bits a bias's steps are no small part of an activation's.
        """
        scale, bias, inputs = self.scales(), self.bias(), self.input_scale()
        weight = _stored(self.layer, self.levels(scale) * self.multiple * self.spread(scale))
        if bias is not None and inputs is not None and self.grid.per_channel:
            bias = _whole(bias, scale[:, :, 0] * inputs)
        return weight, None if bias is None else bias.reshape(-1)

    def scales(self) -> Tensor:
        """``[g, o, b]``, large enough for an int32 bias."""
        scale, bias, inputs = self.start_scale * torch.exp(self.growth), self.bias(), self.input_scale()
        return scale if bias is None or inputs is None else _holding(scale, bias, inputs)

    def bias(self) -> Tensor | None:
        """``[g, o]``."""
        return None if self.shift is None else cast(Tensor, self.start_bias) + self.shift * self.unit

    def spread(self, scale: Tensor) -> Tensor:
        """Scales ``[g, o, b]`` for every one of k inputs, or as they are where a channel has one."""
        if self.grid.block_size is None or scale.shape[2] == 1:
            return scale
        return scale.repeat_interleave(self.grid.block_size, dim=2)[:, :, : self.layer.matrix_shape[2]]

    @torch.no_grad()
    def solution(self) -> tuple[Codes, Grid, Floats | None]:
        """Codes ``[g, o, k]``, their grid and the bias ``[g, o]``, as they are now."""
        scale, bias = self.scales(), self.bias()
        codes = self.levels(scale).round() + self.zero_point
        grid = replace(self.grid, scale=scale.cpu().numpy())
        return codes.cpu().numpy().astype(np.int8), grid, None if bias is None else bias.cpu().numpy()

    def write(self, model: Model) -> int:
        """Put the solution into the model; how many codes are others than before."""
        codes, grid, bias = self.solution()
        held = model.quantized[self.layer.name]
        model.quantized[self.layer.name] = Quantized(codes, grid, held.sqnr_db)
        model.write(self.layer, grid.values(codes), bias)
        return int((codes != held.codes).sum())


def constants(weights: Iterable[QuantizedWeight]) -> dict[str, Tensor]:
    """What a program reads in place of the constants of these layers, by name."""
    found: dict[str, Tensor] = {}
    for weight in weights:
        found[weight.layer.weight], bias = weight()
        if bias is not None and weight.layer.bias is not None:
            found[weight.layer.bias] = bias
    return found


def _holding(scale: Tensor, bias: Tensor, input_scale: Tensor | float) -> Tensor:
    """Scales ``[g, o, b]``, raised to where biases ``[g, o]`` fit int32 with room to spare."""
    min_scale = bias.detach().abs() / (input_scale * BIAS_HEADROOM)  # [g, o]
    return torch.maximum(scale, min_scale[:, :, None])


def _whole(bias: Tensor, step: Tensor) -> Tensor:
    """Biases ``[g, o]`` as integers times ``step``; the gradient passes."""
    step = step.detach()
    return bias + (torch.round(bias.detach() / step) * step - bias.detach())


def _stored(layer: Linear, matrix: Tensor) -> Tensor:
    """`Linear.stored` with gradients: ``[g, o, k]`` as the node stores it."""
    if layer.op == "Conv":
        return matrix.reshape(layer.weight_shape)
    if layer.op == "ConvTranspose":
        g, o, _ = layer.matrix_shape
        split = matrix.reshape(g, o, layer.weight_shape[0] // g, *layer.kernel).transpose(1, 2)  # [g, i, o, *taps]
        return split.flip(tuple(range(3, split.ndim))).reshape(layer.weight_shape)
    return matrix[0] if layer.transposed else matrix[0].t()
