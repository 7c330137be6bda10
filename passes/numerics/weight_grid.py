"""The requested form of a weight's grid: bits, granularity, and how scales are chosen."""

from dataclasses import dataclass, replace

import numpy as np

from passes.numerics.grid import Floats, Grid, code_range
from passes.numerics.two_level import MOST_BITS, two_level_grid
from passes.numerics.weight_scale_search import absmax_grid, search_grid

__all__ = ["GridForm"]


@dataclass(frozen=True)
class GridForm:
    """The form of a weight's grid, before its scales are chosen.

    Attributes:
        bits: Bits per code, 2 to 8.
        block_size: Number of inputs that share a scale. None: the whole output channel.
        symmetric: Whether the zero point is 0.
        two_level: Whether scales of blocks are integer multiples of their channel's (`passes.numerics.two_level`).
        search: Whether to search for the scale of least error. Otherwise the largest weight determines it.

    Raises:
        ValueError: ``bits`` or ``block_size`` is out of range, or ``two_level`` is combined with no block size, with
            more than 4 bits, with a zero point or with no search.
    """

    bits: int
    block_size: int | None = None
    symmetric: bool = True
    two_level: bool = False
    search: bool = True

    def __post_init__(self) -> None:
        code_range(self.bits)
        if self.block_size is not None and self.block_size < 1:
            raise ValueError(f"block_size must be at least 1, not {self.block_size}")
        if not self.two_level:
            return
        if self.block_size is None:
            raise ValueError("two_level needs a block_size, such as block_size = 8")
        if self.bits > MOST_BITS:
            raise ValueError(f"two_level is for weights of up to {MOST_BITS} bits, not {self.bits}")
        if not self.symmetric:
            raise ValueError("two_level grids are symmetric; leave symmetric = false out")
        if not self.search:
            raise ValueError("two_level scales are searched; leave scale = absmax out")

    def grid(self, weight: Floats, importance: Floats | None = None, min_scale: Floats | None = None) -> Grid:
        """Return the grid for a weight.

        Args:
            weight: ``[g, o, k]`` float32. With two levels, ``block_size`` divides k.
            importance: Cost of a squared error at each input, ``[g, k]``. None: the same for all inputs.
            min_scale: Smallest allowed scale of a channel, ``[g, o]``.
        """
        if not self.search:
            return absmax_grid(
                weight, self.bits, block_size=self.block_size, symmetric=self.symmetric, min_scale=min_scale
            )
        if importance is None:
            importance = np.ones((weight.shape[0], weight.shape[2]), np.float32)
        if self.two_level and self.block_size is not None:
            return two_level_grid(weight, self.bits, importance, block_size=self.block_size, min_scale=min_scale)
        return search_grid(
            weight, self.bits, importance, block_size=self.block_size, symmetric=self.symmetric, min_scale=min_scale
        )

    def plain(self) -> "GridForm":
        """Return the form without search, and with one scale per channel instead of two levels.

        It is the baseline from which gains are measured.
        """
        return replace(self, block_size=None if self.two_level else self.block_size, two_level=False, search=False)
