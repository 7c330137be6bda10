"""What a pass is, what it is given, and what it says it did.

A pass is a frozen dataclass whose fields are its configuration. A graph pass rewrites the model; a layer pass solves
one layer at a time. Both report every linear layer exactly once: changed, or skipped with a reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from passes.errors import QuantizationError
from passes.found_grids import FoundGrids
from passes.layer_names import require_known
from passes.linear import Linear, linear_layers
from passes.numerics.channels import ChannelStatistics
from passes.numerics.grid import ActivationGrid, Codes, Floats, Grid, code_range
from passes.numerics.histogram import Histogram
from passes.numerics.moments import Moments
from passes.numerics.outputs import OutputStatistics
from passes.numerics.weight_grid import GridForm
from passes.placement import Rules
from passes.surgery import fresh_name, tensor_names

__all__ = [
    "Change",
    "Correction",
    "CorrectionPass",
    "CoveredRange",
    "GraphPass",
    "LayerPass",
    "LossGrid",
    "Model",
    "Needs",
    "PassReport",
    "Problem",
    "Quantized",
    "Solution",
    "Stage",
    "Stats",
]


class Stage(IntEnum):
    """Where in a recipe a pass belongs; stages follow each other, passes of one stage stand in any order."""

    NORMALISE = 1  # the graph brought to the forms the other passes know
    FLOAT = 2  # float in, float out
    RANGES = 3  # grids of activations, of the float graph as the stages before leave it
    WEIGHTS = 4  # grids and codes of weights
    REFINEMENT = 5  # of codes that are there


@dataclass(frozen=True)
class Quantized:
    """A layer's weight on its grid: codes ``[g, o, k]`` are what the file will hold."""

    codes: Codes
    grid: Grid
    sqnr_db: float


@dataclass
class Model:
    """The graph, always runnable in float, and what is known of its quantization.

    Attributes:
        graph: a quantized layer's weight holds its dequantized values.
        rules: what the target accepts.
        quantized: by layer name.
        ranges: grid of every activation tensor that will be quantized, by tensor name.
        kept: why a layer stays in float, by layer name.
        float_activations: why a layer reads floats although its weight is quantized, by layer name.
        exact: weight ``[g, o, k]`` and bias ``[g, o]`` a layer had before it was quantized, by layer name.
        found: what the file that the model was read from was quantized with.
    """

    graph: gs.Graph
    rules: Rules
    quantized: dict[str, Quantized] = field(default_factory=dict)
    ranges: dict[str, ActivationGrid] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    float_activations: dict[str, str] = field(default_factory=dict)
    exact: dict[str, tuple[Floats, Floats | None]] = field(default_factory=dict)
    found: FoundGrids = field(default_factory=FoundGrids)

    def layers(self) -> dict[str, Linear]:
        """Every linear layer by name, in the graph's order."""
        return linear_layers(self.graph)

    def reads_integers(self, layer: Linear) -> bool:
        """Whether the layer, once its weight is quantized, runs on the target's integer kernel."""
        kernel = self.rules.why_no_kernel(layer.op, len(layer.weight_shape), layer.groups) is None
        return kernel and layer.input in self.ranges and layer.name not in self.float_activations

    def node(self, name: str) -> gs.Node:
        """The node of that name.

        Raises:
            QuantizationError: there is none.
        """
        for node in self.graph.nodes:
            if node.name == name:
                return node
        raise QuantizationError(f"no node is named {name}")

    def weight(self, layer: Linear) -> Floats:
        """The layer's present weight as ``[g, o, k]``."""
        return layer.matrix(np.asarray(self.node(layer.name).inputs[1].values, np.float32))

    def bias(self, layer: Linear) -> Floats | None:
        """The layer's bias as ``[g, o]``, or None."""
        if layer.bias is None:
            return None
        stored = np.asarray(self.node(layer.name).inputs[2].values, np.float32)
        groups, outputs, _ = layer.matrix_shape
        return np.broadcast_to(stored.reshape(-1), (groups * outputs,)).reshape(groups, outputs).copy()

    def write(self, layer: Linear, weight: Floats, bias: Floats | None) -> None:
        """Give the layer a new weight ``[g, o, k]`` and bias ``[g, o]`` (fresh arrays; a missing bias is created)."""
        node = self.node(layer.name)
        node.inputs[1].values = np.ascontiguousarray(layer.stored(weight.astype(np.float32)))
        if bias is None:
            return
        flat = np.ascontiguousarray(bias.reshape(-1).astype(np.float32))
        if layer.bias is not None:
            node.inputs[2].values = flat
        elif layer.op != "MatMul":
            while len(node.inputs) > 2:
                node.inputs.pop()
            name = fresh_name(f"{layer.name}.bias", tensor_names(self.graph))
            node.inputs.append(gs.Constant(name, flat))


@dataclass(frozen=True)
class Needs:
    """The statistics a pass wants: histograms of tensors, channel statistics and moments of layers' inputs.

    ``tensors`` are others whose channel statistics are wanted, with the axis of their channels.
    """

    histograms: frozenset[str] = frozenset()
    channels: frozenset[str] = frozenset()
    moments: frozenset[str] = frozenset()
    tensors: frozenset[tuple[str, int]] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.histograms or self.channels or self.moments or self.tensors)

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(
            self.histograms | other.histograms,
            self.channels | other.channels,
            self.moments | other.moments,
            self.tensors | other.tensors,
        )


@dataclass(frozen=True)
class Stats:
    """What calibration saw: histograms and ``tensors`` by tensor name; channel statistics and moments by layer name."""

    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    channels: Mapping[str, ChannelStatistics] = field(default_factory=dict)
    moments: Mapping[str, Moments] = field(default_factory=dict)
    tensors: Mapping[str, ChannelStatistics] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """What a pass did to a layer; errors are signal-to-noise ratios in dB, where the pass knows them."""

    what: str
    before_db: float | None = None
    after_db: float | None = None


@dataclass(frozen=True)
class LossGrid:
    """What a search saw for one layer, so that it can be drawn as a line or a heat map.

    Attributes:
        axes: name and points of every parameter, in order.
        losses: one for every combination of points, an axis per parameter.
        plain: the loss of leaving the layer alone.
    """

    axes: Mapping[str, tuple[float, ...]]
    losses: NDArray[np.float64]
    plain: float


@dataclass(frozen=True)
class CoveredRange:
    """What calibration saw of a quantized activation tensor, and how much of it the grid covers.

    Attributes:
        grid: of the tensor.
        low, high: the smallest and the largest value seen, after a clamp that the quantizer takes over.
        clipped: share of the values seen that lie more than half a step beyond the grid's ends.
    """

    grid: ActivationGrid
    low: float
    high: float
    clipped: float


@dataclass(frozen=True)
class PassReport:
    """Every linear layer once: changed or skipped.

    ``notes`` are about the model as a whole; ``grids`` hold the losses of a search, by layer; ``ranges`` what was
    decided for activations, by tensor.
    """

    name: str
    changed: Mapping[str, Change] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    grids: Mapping[str, LossGrid] = field(default_factory=dict)
    ranges: Mapping[str, CoveredRange] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """One layer to solve.

    Attributes:
        layer: its geometry.
        weight: ``[g, o, k]`` float32.
        bias: ``[g, o]`` or None.
        bits: of the weight codes.
        block: inputs that share a scale; None: the whole output channel.
        floor: ``[g, o]``, the smallest scale whose int32 bias cannot overflow.
        moments: of its inputs, if the pass asked for them; about an origin near their mean, see `Moments.about`.
    """

    layer: Linear
    weight: Floats
    bias: Floats | None
    bits: int
    block: int | None
    floor: Floats | None
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
        block: inputs that share a scale; None: the whole output channel does.
        two_level: scales of blocks are whole multiples of their channel's, which integer kernels can read; a layer's
            blocks are then as near to `block` as divides its inputs, and larger where it would have more than 12,288 of
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
    block: int | None = None
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
        GridForm(min(every), self.block, self.symmetric, self.two_level, self.searches)  # refuses what cannot be

    @property
    def searches(self) -> bool:
        """Whether the scales of weights are searched, rather than those of the largest weights taken."""
        return True

    def solve(self, problem: Problem) -> Solution:
        """Codes, grid and bias of one layer."""
        raise QuantizationError(f"{type(self).__name__} does not say how it solves")

    def grid_form(self, problem: Problem) -> GridForm:
        """What the layer's grid is to be like; one scale a channel where the layer has no blocks."""
        two_level = self.two_level and problem.block is not None
        return GridForm(problem.bits, problem.block, self.symmetric, two_level, self.searches)

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
    """A pass that moves the scales and biases of quantized layers, never their codes; `converter.correct` feeds it.

    `Model.exact` is what it compares with, so a layer pass goes before it. Subclasses set `name`.
    """

    name: ClassVar[str]
    stage: ClassVar[Stage] = Stage.REFINEMENT

    def correct(self, outputs: OutputStatistics) -> Correction:
        """The correction of one layer, given its outputs in both networks."""
        raise QuantizationError(f"{type(self).__name__} does not say how it corrects")
