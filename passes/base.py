"""What a pass is, what it is given, and what it says it did.

A pass is a frozen dataclass whose fields are its configuration. A graph pass rewrites the model; a layer pass solves
one layer at a time. Both report every linear layer exactly once: changed, or skipped with a reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from passes.errors import QuantizationError
from passes.ir.layer_names import require_known
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.numerics.grid import Codes, Floats, Grid, code_range
from passes.numerics.moments import Moments
from passes.numerics.output_statistics import OutputStatistics
from passes.numerics.weight_grid import GridForm
from passes.report import PassReport
from passes.statistics import Needs, Stats

__all__ = ["Correction", "CorrectionPass", "GraphPass", "LayerPass", "Problem", "Solution", "Stage"]


class Stage(IntEnum):
    """Where in a recipe a pass belongs; stages follow each other, passes of one stage stand in any order."""

    NORMALISE = 1  # the graph brought to the forms the other passes know
    FLOAT = 2  # float in, float out
    RANGES = 3  # grids of activations, of the float graph as the stages before leave it
    WEIGHTS = 4  # grids and codes of weights
    REFINEMENT = 5  # of codes that are there


@dataclass(frozen=True)
class Problem:
    """One layer to solve.

    Attributes:
        layer: its geometry.
        weight: ``[g, o, k]`` float32.
        bias: ``[g, o]`` or None.
        bits: of the weight codes.
        block_size: inputs that share a scale; None: the whole output channel.
        min_scale: ``[g, o]``, the smallest scale whose int32 bias cannot overflow.
        moments: of its inputs, if the pass asked for them; about an origin near their mean, see `Moments.about`.
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
    """A layer solved: codes ``[g, o, k]`` on their grid, bias ``[g, o]``, SQNR of plain rounding and of these codes."""

    codes: Codes
    grid: Grid
    bias: Floats | None
    before_db: float | None
    after_db: float | None
    note: str = ""


@dataclass(frozen=True)
class GraphPass:
    """A pass over the whole graph. Subclasses set `name` and override `apply`, and `needs` if they want statistics.

    A pass that does not take a float graph and leave one sets `stage` too.
    """

    name: ClassVar[str]
    stage: ClassVar[Stage] = Stage.FLOAT

    def needs(self, model: Model) -> Needs:
        """The statistics `apply` wants."""
        return Needs()

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Rewrite the model."""
        raise QuantizationError(f"{type(self).__name__} does not say how it applies")


@dataclass(frozen=True)
class LayerPass:
    """A pass that solves one layer at a time; the converter's walk feeds it.

    Attributes:
        bits: of the weights, 2 to 8.
        symmetric: zero point 0.
        block_size: inputs that share a scale; None: the whole output channel does.
        two_level: scales of blocks are whole multiples of their channel's, which integer kernels can read; a layer's
            blocks are then as near to `block_size` as divides its inputs, and larger where it would have more than 12,288 of
            them; layers of more than 4 bits have one scale a channel (`passes.numerics.two_level`).
        fewest_blocks: of a layer with `two_level`: small layers have smaller blocks, down to 3 inputs; with 0 they
            keep those that are asked for.
        first_last_bits: bits of the first and the last layer, if they differ.
        layer_bits: bits by layer name, before everything else.
        sequential: layers see what their quantized predecessors produce.
    """

    name: ClassVar[str]
    stage: ClassVar[Stage] = Stage.WEIGHTS
    wants_moments: ClassVar[bool] = True
    sqnr_of: ClassVar[str] = "outputs"  # what the errors of its solutions are of

    bits: int = 4
    symmetric: bool = True
    block_size: int | None = None
    two_level: bool = False
    fewest_blocks: int = 2048
    first_last_bits: int | None = None
    layer_bits: Mapping[str, int] = field(default_factory=dict)
    sequential: bool = True

    def __post_init__(self) -> None:
        if self.fewest_blocks < 0:
            raise ValueError(f"fewest_blocks is a number of blocks, so 0 or more, not {self.fewest_blocks}")
        ends = self.bits if self.first_last_bits is None else self.first_last_bits
        every = (self.bits, ends, *self.layer_bits.values())
        for bits in every:
            code_range(bits)
        GridForm(min(every), self.block_size, self.symmetric, self.two_level, self.searches)  # refuses what cannot be

    @property
    def searches(self) -> bool:
        """Whether the scales of weights are searched, rather than those of the largest weights taken."""
        return True

    def solve(self, problem: Problem) -> Solution:
        """Codes, grid and bias of one layer."""
        raise QuantizationError(f"{type(self).__name__} does not say how it solves")

    def grid_form(self, problem: Problem) -> GridForm:
        """What the layer's grid is to be like; one scale a channel where the layer has no blocks."""
        two_level = self.two_level and problem.block_size is not None
        return GridForm(problem.bits, problem.block_size, self.symmetric, two_level, self.searches)

    def bits_of(self, layers: Mapping[str, Linear]) -> dict[str, int]:
        """Weight bits of every layer.

        Raises:
            QuantizationError: `layer_bits` names a layer that does not exist.
        """
        require_known(self.layer_bits, layers, "layer_bits")
        bits = dict.fromkeys(layers, self.bits)
        if self.first_last_bits is not None and bits:
            names = list(layers)
            bits[names[0]] = bits[names[-1]] = self.first_last_bits
        return bits | dict(self.layer_bits)


@dataclass(frozen=True)
class Correction:
    """What to do to a quantized layer's outputs: multiply by ``factor`` and add ``shift``, both ``[g, o]``."""

    what: str
    factor: NDArray[np.float64]
    shift: NDArray[np.float64]


@dataclass(frozen=True)
class CorrectionPass:
    """A pass that moves the scales and biases of quantized layers, never their codes; `converter.calibration.correction` feeds it.

    `Model.float_weights` is what it compares with, so a layer pass goes before it. Subclasses set `name`.
    """

    name: ClassVar[str]
    stage: ClassVar[Stage] = Stage.REFINEMENT

    def correct(self, outputs: OutputStatistics) -> Correction:
        """The correction of one layer, given its outputs in both networks."""
        raise QuantizationError(f"{type(self).__name__} does not say how it corrects")
