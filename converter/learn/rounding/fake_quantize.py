"""Quantization inside a float network, with gradients: what a block computes once its weights are codes.

Activations go through their 8-bit grid with the straight-through estimator. All of a weight is learned: its codes, by
whole steps and as many as it takes (not only up or down: Yvinec et al. 2023, arXiv 2308.07662; `converter.learn.rounding.moves`
makes them), its scales and the layer's bias (`converter.learn.quantized_weight`).
"""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from converter.learn.graph.program import Program
from converter.learn.quantized_weight import QuantizedWeight, constants
from passes.ir.linear import Linear
from passes.numerics.grid import ActivationGrid, Codes, Floats, Grid

__all__ = ["LearnedWeight", "QuantizedBlock", "fake_quantize"]


def fake_quantize(x: Tensor, grid: ActivationGrid) -> Tensor:
    """Values of any shape on their grid; the gradient passes where they are within its range."""
    low, high = grid.code_range
    return torch.fake_quantize_per_tensor_affine(x, float(grid.scale), grid.zero_point, low, high)


class LearnedWeight(QuantizedWeight):
    """One layer's codes, scales and bias as they are learned; as it is made, it computes exactly what it was given.

    `nudge` is zero and stays so: its gradient is that of the codes.

    Args:
        layer, grid, bias: see `QuantizedWeight`.
        codes: ``[g, o, k]`` on ``grid``.
        unit: ``[g, o]``, what a bias parameter of 1 stands for: the spread of the layer's output.
        step: scale of the grid of the layer's input; None: the bias stays in float.
    """

    codes: Tensor

    def __init__(
        self, layer: Linear, codes: Codes, grid: Grid, bias: Floats | None, unit: Floats, step: float | None
    ) -> None:
        super().__init__(layer, grid, bias, unit)
        self.step = step
        self.register_buffer("codes", torch.from_numpy(codes.astype(np.float32)))
        self.nudge = nn.Parameter(torch.zeros_like(self.codes))

    def levels(self, scale: Tensor) -> Tensor:
        """Codes less their zero points ``[g, o, k]``, whatever the scale."""
        return self.codes + self.nudge - self.zero_point

    def input_scale(self) -> float | None:
        """The scale of the layer's input; None: the bias stays in float."""
        return self.step


class QuantizedBlock(nn.Module):
    """A program whose layers' weights are learned and whose activations are fake-quantized.

    Args:
        program: of the block.
        weights: of its layers.
        ranges: grids by tensor name; the block's inputs are expected to be on theirs.
    """

    def __init__(
        self, program: Program, weights: Sequence[LearnedWeight], ranges: Mapping[str, ActivationGrid]
    ) -> None:
        super().__init__()
        self.program, self.ranges = program, dict(ranges)
        self.weights = nn.ModuleList(weights)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The block's outputs by name."""
        return self.program(inputs, constants(self.learned()), self._quantize)

    def learned(self) -> list[LearnedWeight]:
        """The weights of its layers, in order."""
        return cast("list[LearnedWeight]", list(self.weights))

    def _quantize(self, name: str, value: Tensor) -> Tensor:
        grid = self.ranges.get(name)
        return value if grid is None else fake_quantize(value, grid)
