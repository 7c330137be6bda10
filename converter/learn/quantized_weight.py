"""Weight and bias of a layer, computed as its file computes them, with gradients to the scales and the bias.

A weight is ``s (q - z)``. Where blocks have multiples of their channel's scale, it is ``s m (q - z)``. The parameters
here are the scale s of each channel or block (LSQ, Esser et al. 2020, arXiv 1902.08153) and the layer's bias. A
subclass defines how the codes q are learned.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from converter.calibration.min_scale import BIAS_HEADROOM, within_pair_sum
from passes.errors import QuantizationError
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.numerics.grid import Codes, Floats, Grid, code_range

__all__ = ["QuantizedWeight", "constants", "write_all"]


class QuantizedWeight(nn.Module):
    """Scales and bias of one layer, as parameters. Subclasses override `levels` and `input_scale`.

    A new object computes exactly the values of its grid.

    Args:
        layer: Geometry of the layer.
        grid: Grid of the codes.
        bias: Bias, shape ``[g, o]``, or None.
        unit: The bias's change when its parameter changes by 1: the standard deviation of the layer's output. One
            number, or shape ``[g, o]``.
        kept: Weights ``[g, o, k]`` that were not removed. The others stay zero, whatever is learned. None: all.
    """

    start_scale: Tensor
    zero_point: Tensor
    multiple: Tensor
    unit: Tensor
    kept: Tensor

    def __init__(
        self, layer: Linear, grid: Grid, bias: Floats | None, unit: Floats | float, kept: NDArray[np.bool_] | None
    ) -> None:
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
        mask = torch.ones(()) if kept is None else torch.from_numpy(kept.astype(np.float32))
        self.register_buffer("kept", mask, persistent=False)
        self.register_buffer("unit", torch.tensor(unit, dtype=torch.float32), persistent=False)
        self.growth = nn.Parameter(torch.zeros(grid.scale.shape))  # change of the scale's logarithm
        self.shift = None if bias is None else nn.Parameter(torch.zeros(bias.shape))

    def levels(self, scale: Tensor) -> Tensor:
        """Codes minus their zero points, ``[g, o, k]``, for scales ``[g, o, b]``."""
        raise QuantizationError(f"{type(self).__name__} does not override levels()")

    def input_scale(self) -> Tensor | float | None:
        """Scale of the layer's input, from which an int32 bias gets its scale. None if the bias stays in float."""
        raise QuantizationError(f"{type(self).__name__} does not say what its inputs' scale is")

    def forward(self) -> tuple[Tensor, Tensor | None]:
        """The weight in the node's storage layout, and the bias ``[g * o]``, rounded to the int32 values of the file.

        Rounding the bias matters: at few bits, a step of the bias is not small against a step of the activation.
        """
        scale, bias, inputs = self.scales(), self.bias(), self.input_scale()
        weight = _stored(self.layer, self.levels(scale) * self.kept * self.multiple * self.spread(scale))
        if bias is not None and inputs is not None and self.grid.per_channel:
            bias = _round_to_steps(bias, scale[:, :, 0] * inputs)
        return weight, None if bias is None else bias.reshape(-1)

    def scales(self) -> Tensor:
        """Scales ``[g, o, b]``, large enough that the bias fits int32."""
        scale, bias, inputs = self.start_scale * torch.exp(self.growth), self.bias(), self.input_scale()
        return scale if bias is None or inputs is None else _raised_for_bias(scale, bias, inputs)

    def bias(self) -> Tensor | None:
        """Bias ``[g, o]``, or None."""
        return None if self.shift is None else cast(Tensor, self.start_bias) + self.shift * self.unit

    def spread(self, scale: Tensor) -> Tensor:
        """Scales ``[g, o, b]`` repeated for each of the k inputs, or unchanged if each channel has one scale."""
        if self.grid.block_size is None or scale.shape[2] == 1:
            return scale
        return scale.repeat_interleave(self.grid.block_size, dim=2)[:, :, : self.layer.matrix_shape[2]]

    @torch.no_grad()
    def solution(self) -> tuple[Codes, Grid, Floats | None]:
        """The present codes ``[g, o, k]``, their grid and the bias ``[g, o]``."""
        scale, bias = self.scales(), self.bias()
        codes = (self.levels(scale) * self.kept).round() + self.zero_point
        grid = replace(self.grid, scale=scale.cpu().numpy())
        return codes.cpu().numpy().astype(np.int8), grid, None if bias is None else bias.cpu().numpy()

    def write(self, model: Model) -> int:
        """Put the solution into the model.

        Returns:
            How many codes differ from the model's previous ones.
        """
        return write_all([self], model)


def write_all(weights: Sequence[QuantizedWeight], model: Model) -> int:
    """Put the solution of layers that share a weight, or of one layer, into the model.

    Returns:
        How many codes differ from the model's previous ones.
    """
    codes, grid, _ = weights[0].solution()
    codes = within_pair_sum(model, weights[0].layer, codes, grid)
    previous = model.quantized[weights[0].layer.name]
    for weight in weights:
        model.quantized[weight.layer.name] = replace(model.quantized[weight.layer.name], codes=codes, grid=grid)
    biases = [weight.solution()[2] for weight in weights]
    model.write_codes([weight.layer for weight in weights], codes, grid, biases)
    return int((codes != previous.codes).sum())


def constants(weights: Iterable[QuantizedWeight]) -> dict[str, Tensor]:
    """Weights and biases that a program reads in place of the graph's constants, by tensor name."""
    tensors: dict[str, Tensor] = {}
    for weight in weights:
        tensors[weight.layer.weight], bias = weight()
        if bias is not None and weight.layer.bias is not None:
            tensors[weight.layer.bias] = bias
    return tensors


def _raised_for_bias(scale: Tensor, bias: Tensor, input_scale: Tensor | float) -> Tensor:
    """Scales ``[g, o, b]``, raised where biases ``[g, o]`` would not fit int32 with headroom."""
    min_scale = bias.detach().abs() / (input_scale * BIAS_HEADROOM)  # [g, o]
    return torch.maximum(scale, min_scale[:, :, None])


def _round_to_steps(bias: Tensor, step: Tensor) -> Tensor:
    """Biases ``[g, o]``, rounded to multiples of ``step``. The gradient passes straight through."""
    step = step.detach()
    return bias + (torch.round(bias.detach() / step) * step - bias.detach())


def _stored(layer: Linear, matrix: Tensor) -> Tensor:
    """`Linear.stored` with gradients: brings ``[g, o, k]`` into the node's storage layout."""
    if layer.op == "Conv":
        return matrix.reshape(layer.weight_shape)
    if layer.op == "ConvTranspose":
        g, o, _ = layer.matrix_shape
        split = matrix.reshape(g, o, layer.weight_shape[0] // g, *layer.kernel).transpose(1, 2)  # [g, i, o, *taps]
        return split.flip(tuple(range(3, split.ndim))).reshape(layer.weight_shape)
    return matrix[0] if layer.transposed else matrix[0].t()
