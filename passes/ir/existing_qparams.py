"""Quantization that a file already had when it was read: codes and grids of its weights, grids of its activations."""

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from passes.errors import QuantizationError
from passes.ir.linear import Linear
from passes.numerics.grid import ActivationGrid, Codes, Floats, Grid, dequantized

__all__ = ["REQUANTIZE", "ExistingCodes", "ExistingQparams", "requantize_with"]


def requantize_with(recipe: str) -> str:
    """Return the next step where the quantization of a file cannot be kept: another recipe."""
    return f"quantize it again with recipe {recipe} and `calibration=`"


REQUANTIZE = requantize_with("int8")
"""The next step for files of 8 bits."""


@dataclass(frozen=True)
class ExistingCodes:
    """A quantized weight of the file. All arrays have the shape of the weight that the operator reads.

    Attributes:
        codes: Signed codes. Unsigned codes and their zero points are shifted by half their range.
        scale: Scale of every code.
        zero_point: Zero point of every code.
        bits: Bits of the type in which the codes were stored.
        block_size: Number of elements along one axis that share a scale, or a multiple of it. None: at least a whole
            channel shares one.
        bias: int32 codes of the layer's bias, or None if it was a float.
        multiples: Integer factor of every code's scale. None: all are 1.
    """

    codes: Codes
    scale: Floats
    zero_point: Codes
    bits: int
    block_size: int | None = None
    bias: NDArray[np.int32] | None = None
    multiples: Codes | None = None

    def values(self) -> Floats:
        """Dequantize the codes."""
        return dequantized(self.codes, self.scale, self.zero_point, self.multiples)

    def on_grid(self, layer: Linear) -> tuple[Codes, Grid]:
        """Return the codes ``[g, o, k]`` and their grid.

        Raises:
            QuantizationError: The layer's weight has a different shape by now, or the scales lie along neither output
                channels nor blocks of inputs.
        """
        if self.codes.shape != layer.weight_shape:
            raise QuantizationError(
                f"{layer.name}: its weight has another shape than the codes; leave other passes out"
            )
        codes, scale, zero_point = (_matrix(layer, part) for part in (self.codes, self.scale, self.zero_point))
        if self.multiples is not None and self.block_size is not None:
            multiples = _matrix(layer, self.multiples)
            shared = multiples[:, :, :: self.block_size].copy()
            grid = Grid(self.bits, scale[:, :, :1].copy(), zero_point[:, :, :1].copy(), self.block_size, shared)
            if np.array_equal(grid.multiple(codes.shape[2]), multiples) and np.ptp(scale, axis=2).max() == 0:
                return codes, grid
        plain = (None, self.block_size, self.block_size and self.block_size * math.prod(layer.kernel))
        for block_size in plain if self.multiples is None else ():
            step = block_size or codes.shape[2]
            grid = Grid(self.bits, scale[:, :, ::step].copy(), zero_point[:, :, ::step].copy(), block_size)
            spread = grid.spread(codes.shape[2])
            if np.array_equal(spread[0], scale) and np.array_equal(spread[1], zero_point):
                return codes, grid
        raise QuantizationError(
            f"{layer.name}: its scales do not lie along its output channels; quantize it again with recipe int8 or int4"
        )


@dataclass(frozen=True)
class ExistingQparams:
    """The quantization parameters of a file. They are empty for a float model.

    Attributes:
        weights: Codes, by the name of the layer's weight.
        ranges: Grids, by the name of the activation tensor.
        unkept: Why the quantization of a tensor cannot be written again unchanged, by the tensor's name.
        float_readers: Number of nodes that read a tensor in float, by the tensor's name, where others read it
            quantized. It can be 0 if the tensor is an output of the graph.
        copies: Names of tensors that are another one on a grid of other bits (`passes.activations.widths`). Each is the
            result of an Identity.
    """

    weights: Mapping[str, ExistingCodes] = field(default_factory=dict)
    ranges: Mapping[str, ActivationGrid] = field(default_factory=dict)
    unkept: Mapping[str, str] = field(default_factory=dict)
    float_readers: Mapping[str, int] = field(default_factory=dict)
    copies: Set[str] = frozenset()

    def require(self) -> None:
        """Require that the file is quantized.

        Raises:
            QuantizationError: It is not.
        """
        if not self:
            raise QuantizationError("nothing to keep: the model is not quantized; use another recipe, such as int8")

    def __bool__(self) -> bool:
        return bool(self.weights or self.ranges)

    def __str__(self) -> str:
        return f"{len(self.weights)} weights and {len(self.ranges)} activations"


def _matrix(layer: Linear, stored: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(layer.matrix(stored))
