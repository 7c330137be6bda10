"""Coverage: which share of the float network's activations the grids cover after training has changed them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from passes.numerics.grid import ActivationGrid
from passes.report import CoveredRange

__all__ = ["Coverage"]


class Coverage:
    """Watch the tensors of a float run, and count the values outside their grids.

    Args:
        grids: Activation grids by tensor name.
    """

    def __init__(self, grids: Mapping[str, ActivationGrid]) -> None:
        self.grids = grids
        self.ends: dict[str, tuple[float, float]] = {}
        self.counts: dict[str, tuple[int, int]] = {}

    @torch.no_grad()
    def __call__(self, name: str, value: Tensor) -> Tensor:
        """Count a tensor's values. The tensor is returned unchanged."""
        grid = self.grids.get(name)
        if grid is not None:
            low, high = grid.ends
            half = float(grid.scale) / 2
            outside = int(((value < low - half) | (value > high + half)).sum())
            least, most = self.ends.get(name, (float("inf"), float("-inf")))
            clipped, seen = self.counts.get(name, (0, 0))
            self.ends[name] = min(least, float(value.min())), max(most, float(value.max()))
            self.counts[name] = clipped + outside, seen + value.numel()
        return value

    def ranges(self) -> dict[str, CoveredRange]:
        """Coverage of every tensor that was seen, by tensor name."""
        return {
            name: CoveredRange(self.grids[name], *self.ends[name], clipped / seen)
            for name, (clipped, seen) in self.counts.items()
        }
