"""Fake quantization with gradients: what a block computes when its weights are codes.

Activations go through their 8-bit grid with the straight-through estimator. Of each weight, the codes, the scales and
the layer's bias are learned (`converter.learn.quantized_weight`). Codes move by whole steps, as many as needed, and not
only up or down by one (Yvinec et al. 2023, arXiv 2308.07662). `converter.learn.rounding.moves` moves them.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from converter.learn.graph.program import Program
from converter.learn.quantized_weight import QuantizedWeight, constants
from passes.ir.linear import Linear
from passes.numerics.grid import ActivationGrid, Codes, Floats, Grid

__all__ = ["LearnedWeight", "QuantizedBlock", "fake_quantize"]


def fake_quantize(x: Tensor, grid: ActivationGrid) -> Tensor:
    """Round values of any shape to their grid. The gradient passes where they are within the grid's range."""
    low, high = grid.code_range
    return torch.fake_quantize_per_tensor_affine(x, float(grid.scale), grid.zero_point, low, high)


class LearnedWeight(QuantizedWeight):
    """Codes, scales and bias of one layer while they are learned. A new object computes exactly what it was given.

    `nudge` stays zero. Its gradient is the gradient of the codes.

    Args:
        layer: See `QuantizedWeight`.
        codes: Codes ``[g, o, k]`` on ``grid``.
        grid: See `QuantizedWeight`.
        bias: See `QuantizedWeight`.
        unit: See `QuantizedWeight`. Shape ``[g, o]``.
        step: Scale of the grid of the layer's input. None if the bias stays in float.
        kept: See `QuantizedWeight`.
    """

    codes: Tensor

    def __init__(
        self,
        layer: Linear,
        codes: Codes,
        grid: Grid,
        bias: Floats | None,
        unit: Floats,
        step: float | None,
        kept: NDArray[np.bool_] | None = None,
    ) -> None:
        super().__init__(layer, grid, bias, unit, kept)
        self.step = step
        self.register_buffer("codes", torch.from_numpy(codes.astype(np.float32)))
        self.nudge = nn.Parameter(torch.zeros_like(self.codes))

    def levels(self, scale: Tensor) -> Tensor:
        """Codes minus their zero points, ``[g, o, k]``. They do not depend on the scale."""
        return self.codes + self.nudge - self.zero_point

    def input_scale(self) -> float | None:
        """Scale of the layer's input. None if the bias stays in float."""
        return self.step


class QuantizedBlock(nn.Module):
    """A program with learned weights and fake-quantized activations.

    Args:
        program: Program of the block.
        weights: Weights of the block's layers.
        ranges: Grids of activations by tensor name. The block's inputs must be on their grids already.
        fixed: Weights and biases of quantized layers that do not learn, by tensor name.
    """

    def __init__(
        self,
        program: Program,
        weights: Sequence[LearnedWeight],
        ranges: Mapping[str, ActivationGrid],
        fixed: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.fixed = dict(fixed)
        self.program, self.ranges = program, dict(ranges)
        self.weights = nn.ModuleList(weights)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The block's outputs by name."""
        device = next(iter(inputs.values())).device
        self.fixed = {name: value.to(device) for name, value in self.fixed.items()}
        return self.program(inputs, self.fixed | constants(self.learned()), self._quantize)

    def learned(self) -> list[LearnedWeight]:
        """The weights of the block's layers, in order."""
        return cast("list[LearnedWeight]", list(self.weights))

    def _quantize(self, name: str, value: Tensor) -> Tensor:
        grid = self.ranges.get(name)
        return value if grid is None else fake_quantize(value, grid)
