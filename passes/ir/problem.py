"""What a pass is asked of one layer, and what it answers."""

from dataclasses import dataclass

from passes.ir.linear import Linear
from passes.numerics.grid import Codes, Floats, Grid
from passes.numerics.moments import Moments
from passes.numerics.sparsity import Pruned

__all__ = ["Problem", "Solution"]


@dataclass(frozen=True)
class Problem:
    """One layer to solve.

    Attributes:
        layer: Geometry of the layer.
        weight: ``[g, o, k]`` float32.
        bias: ``[g, o]`` or None.
        bits: Bits of the weight codes.
        block_size: Number of inputs that share a scale. None: the whole output channel shares one.
        min_scale: ``[g, o]``. The smallest scale whose int32 bias cannot overflow.
        moments: Moments of the layer's inputs about a point near their mean, if the pass wants them.
    """

    layer: Linear
    weight: Floats
    bias: Floats | None
    bits: int
    block_size: int | None
    min_scale: Floats | None
    moments: Moments | None


@dataclass(frozen=True)
class Solution:
    """Solution of one layer.

    Attributes:
        codes: Weight codes ``[g, o, k]``.
        grid: Grid of the codes.
        bias: Bias ``[g, o]`` or None.
        before_db: SQNR of plain rounding.
        after_db: SQNR of these codes.
        note: Anything else that the report should say.
        pruned: Weights that were removed, and stay zero in later passes. None: there are none.
    """

    codes: Codes
    grid: Grid
    bias: Floats | None
    before_db: float | None
    after_db: float | None
    note: str = ""
    pruned: Pruned | None = None
