"""Round-to-nearest: every weight to the nearest point of a grid whose scale loses least, without looking at data."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from passes.base import LayerPass, Problem, Solution
from passes.numerics.error import sqnr_db
from passes.numerics.scale import absmax_grid, search_grid
from passes.numerics.two_level import two_level_grid

__all__ = ["Rtn"]


@dataclass(frozen=True)
class Rtn(LayerPass):
    """Round-to-nearest.

    Attributes:
        scale: "mse" searches each channel's scale, "absmax" takes the largest weight's.
    """

    name: ClassVar[str] = "rtn"
    wants_moments: ClassVar[bool] = False
    sqnr_of: ClassVar[str] = "weights"

    bits: int = 8
    sequential: bool = False
    scale: Literal["mse", "absmax"] = "mse"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.two_level and self.scale == "absmax":
            raise ValueError("two_level scales are searched; leave scale = absmax out")

    def solve(self, problem: Problem) -> Solution:
        """Codes and grid of one layer; errors are of the weight itself."""
        weight = problem.weight
        block = self.float_block(problem)
        plain = absmax_grid(weight, problem.bits, block=block, symmetric=self.symmetric, floor=problem.floor)
        grid = plain
        even = np.ones((weight.shape[0], weight.shape[2]), np.float32)
        if self.two_level and problem.block is not None:
            grid = two_level_grid(weight, problem.bits, even, block=problem.block, floor=problem.floor)
        elif self.scale == "mse":
            grid = search_grid(
                weight, problem.bits, even, block=problem.block, symmetric=self.symmetric, floor=problem.floor
            )
        codes = grid.codes(weight)
        before = sqnr_db(weight, plain.values(plain.codes(weight)))
        return Solution(codes, grid, problem.bias, before, sqnr_db(weight, grid.values(codes)))
