"""Round-to-nearest: round every weight to the nearest point of a grid with the best scale, without data."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from passes.base import LayerPass, Problem, Solution
from passes.numerics.error import sqnr_db

__all__ = ["Rtn"]


@dataclass(frozen=True)
class Rtn(LayerPass):
    """Round-to-nearest.

    Attributes:
        scale: "mse" searches the scale of each channel. "absmax" takes the scale of the largest weight. Weights of
            LSTM, GRU and RNN always have searched scales, see `LayerPass.recurrent`.
    """

    name: ClassVar[str] = "rtn"
    wants_moments: ClassVar[bool] = False
    sqnr_of: ClassVar[str] = "weights"

    bits: int = 8
    sequential: bool = False
    scale: Literal["mse", "absmax"] = "mse"

    @property
    def searches(self) -> bool:
        """Whether scales are searched, by the squared error of the weights."""
        return self.scale == "mse"

    def solve(self, problem: Problem) -> Solution:
        """Return codes and grid of one layer. Errors are those of the weight."""
        weight, form = problem.weight, self.grid_form(problem)
        plain, grid = (each.grid(weight, min_scale=problem.min_scale) for each in (form.plain(), form))
        codes = grid.codes(weight)
        before = sqnr_db(weight, plain.values(plain.codes(weight)))
        return Solution(codes, grid, problem.bias, before, sqnr_db(weight, grid.values(codes)))
