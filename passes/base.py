"""What a pass is, what it says of itself, and what it is given.

A pass is a frozen dataclass whose fields are its configuration. `Pass` has what every pass says: whether it needs data,
which images it may see, what it requires and what it guarantees. Four kinds of pass derive from it, by what they do:
`GraphPass` rewrites the model, `LayerPass` solves one layer at a time, `CorrectionPass` moves scales and biases, and
`LearningPass` learns by gradient. Each kind is run in one place, `converter.pipeline.run_pass`; nobody else asks which
kind a pass is. Every pass reports every linear layer exactly once: changed, or skipped with a reason.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, Literal, Self

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

__all__ = [
    "Correction",
    "CorrectionPass",
    "Device",
    "GraphPass",
    "LayerPass",
    "LearningPass",
    "Pass",
    "Problem",
    "Solution",
    "Stage",
    "require_codes",
]

Device = Literal["auto", "cpu", "cuda"]
"""Where a pass learns; auto: on a CUDA device if there is one."""


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
class Pass:
    """What every pass says of itself; the defaults are those of a pass that looks at no data and learns nothing.

    A pass derives from one of the kinds below. A kind of its own derives from this class, and registers how it is run
    with `converter.pipeline.run_pass.run_kind`.

    Attributes:
        name: what a recipe calls it.
        stage: its place in a recipe: passes of earlier stages stand before it, those of later stages behind it.
        keeps_codes: weights keep the codes that they were read with.
        settles_layers: layers have their final names and weights only after it, so layers are excluded behind it.
        trains: it learns from the training images, which may be given apart from those that calibrate.
    """

    name: ClassVar[str]
    stage: ClassVar[Stage]
    keeps_codes: ClassVar[bool] = False
    settles_layers: ClassVar[bool] = False
    trains: ClassVar[bool] = False

    @property
    def needs_data(self) -> bool:
        """Whether it looks at images; a recipe with such a pass is refused without them."""
        return False

    @property
    def held_out(self) -> float:
        """Share of its images that it judges by and does not learn from. No other pass may see those; 0: none."""
        return 0.0

    @property
    def device(self) -> Device | None:
        """Where it learns; None: it does not learn."""
        return None

    @property
    def solver(self) -> "LayerPass | None":
        """The layer pass that solves layers, now and again when what they are given has changed; None: none does."""
        return None

    def requires(self, model: Model) -> None:
        """Refuse a model that the pass cannot take.

        A pass that rewrites the float graph is asked before it runs. Passes of later stages are asked all at once when
        the float graph has its final form, before any activation is calibrated.

        Raises:
            QuantizationError: names what is missing, and the next step.
        """

    def ensures(self, model: Model) -> None:
        """Refuse a model that is not what the pass promises to leave; asked after the pass, with `passes.graph.check`.

        Raises:
            QuantizationError: names the layer.
        """

    def with_bits(self, bits: Mapping[str, int], exclude: Collection[str]) -> Self:
        """The pass in a call that gives layers these bits and excludes others.

        Raises:
            ValueError: no grid has so many bits.
        """
        return self

    def with_excluded(self, names: Sequence[str]) -> Self | None:
        """The pass with these layers left in float too; None: it is not one that leaves layers in float."""
        return None

    def with_device(self, device: Device) -> Self:
        """The pass with its learning on a device."""
        return self

    def apply_without_data(self, model: Model) -> None:
        """Change the graph as the pass would, if it needs no data for that; speed is measured on such a graph."""


@dataclass(frozen=True)
class GraphPass(Pass):
    """A pass over the whole graph. Subclasses set `name` and override `apply`, and `needs` if they want statistics.

    A pass that does not take a float graph and leave one sets `stage` too.
    """

    stage: ClassVar[Stage] = Stage.FLOAT

    @property
    def needs_data(self) -> bool:
        """Whether it wants statistics: whether it overrides `needs`."""
        return type(self).needs is not GraphPass.needs

    def needs(self, model: Model) -> Needs:
        """The statistics `apply` wants."""
        return Needs()

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Rewrite the model."""
        raise QuantizationError(f"{type(self).__name__} does not say how it applies")

    def apply_without_data(self, model: Model) -> None:
        """Apply it, unless it wants statistics of this model."""
        if not self.needs(model):
            self.apply(model, Stats())


@dataclass(frozen=True)
class LayerPass(Pass):
    """A pass that solves one layer at a time; the converter's walk feeds it.

    Attributes:
        bits: of the weights, 2 to 8.
        symmetric: zero point 0.
        block_size: inputs that share a scale; None: the whole output channel does.
        two_level: scales of blocks are whole multiples of their channel's, which integer kernels can read; a layer's
            blocks are then as near to `block_size` as divides its inputs, and larger where it would have more than
            12,288 of them; layers of more than 4 bits have one scale a channel (`passes.numerics.two_level`).
        fewest_blocks: of a layer with `two_level`: small layers have smaller blocks, down to 3 inputs; with 0 they
            keep those that are asked for.
        first_last_bits: bits of the first and the last layer, if they differ.
        layer_bits: bits by layer name, before everything else.
        sequential: layers see what their quantized predecessors produce.
    """

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
    def needs_data(self) -> bool:
        """Whether it wants the moments of layers' inputs."""
        return self.wants_moments

    @property
    def solver(self) -> "LayerPass":
        """Itself."""
        return self

    def requires(self, model: Model) -> None:
        """Every layer that `layer_bits` names is there to be quantized."""
        self.bits_of({name: layer for name, layer in model.layers().items() if name not in model.float_reasons})

    def ensures(self, model: Model) -> None:
        """Every layer has codes, or a reason to stay in float."""
        require_codes(model, self.name)

    def with_bits(self, bits: Mapping[str, int], exclude: Collection[str]) -> Self:
        """`layer_bits` with these before its own, and without the layers that are excluded."""
        kept = {name: count for name, count in self.layer_bits.items() if name not in exclude}
        return dataclasses.replace(self, layer_bits=kept | dict(bits))

    def alone(self) -> Self:
        """The pass for one layer on the float network's inputs, and quick: only ratios of its errors matter then."""
        return dataclasses.replace(self, sequential=False)

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
class CorrectionPass(Pass):
    """A pass that moves the scales and biases of quantized layers, never their codes.

    `Model.float_weights` is what it compares with, so a layer pass goes before it. Subclasses set `name`.
    """

    stage: ClassVar[Stage] = Stage.REFINEMENT

    @property
    def needs_data(self) -> bool:
        """It compares what layers give on images."""
        return True

    def correct(self, outputs: OutputStatistics) -> Correction:
        """The correction of one layer, given its outputs in both networks."""
        raise QuantizationError(f"{type(self).__name__} does not say how it corrects")


@dataclass(frozen=True)
class LearningPass(Pass):
    """A pass that learns by gradient, on top of codes that are there. It holds the settings of what learns.

    Subclasses have two fields, `held_out` and `device`, and each has a runner of its own.
    """

    stage: ClassVar[Stage] = Stage.REFINEMENT

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be between 0 and 1, not {self.held_out}")

    @property
    def needs_data(self) -> bool:
        """It learns from images."""
        return True

    def with_device(self, device: Device) -> Self:
        """The pass with its learning on a device."""
        settings = {"device": device}
        return dataclasses.replace(self, **settings)


def require_codes(model: Model, after: str) -> None:
    """Every layer has codes, or a reason to stay in float; ``after`` is the pass that quantizes weights.

    Raises:
        QuantizationError: a layer has neither; names it.
    """
    for name in model.layers():
        if name not in model.quantized and name not in model.float_reasons:
            raise QuantizationError(f"{after} gave {name} no codes, and no reason to stay in float")
