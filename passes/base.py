"""Base classes of passes.

A pass is a frozen dataclass. Its fields are its configuration. `Pass` declares what holds for every pass: whether it
needs data, which images it may see, what it requires and what it guarantees. Four kinds of pass derive from it:

- `GraphPass` rewrites the model.
- `LayerPass` solves one layer at a time.
- `CorrectionPass` changes scales and biases.
- `LearningPass` learns by gradient.

`converter.pipeline.run_pass` runs every kind. No other module depends on the kind of a pass. Every pass reports every
linear layer exactly once: as changed, or as skipped with a reason.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import ClassVar, Literal, Self

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from passes.data_facts import DataFacts
from passes.errors import DataError, QuantizationError
from passes.ir.codes import require_codes
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.ir.problem import Problem, Solution
from passes.ir.recurrent import recurrent_layers
from passes.ir.selectors import by_layer, matches, select
from passes.ir.ties import agreed
from passes.numerics.grid import code_range
from passes.numerics.output_statistics import OutputStatistics
from passes.numerics.weight_grid import GridForm
from passes.report import PassReport
from passes.statistics import Needs, Stats

__all__ = [
    "FEWEST_HELD_OUT",
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
"""Device on which a pass learns. "auto" is a CUDA device if there is one, else the CPU."""

FEWEST_HELD_OUT = 4
"""Least number of samples of a pass that holds some out, to work on some and to judge on others."""


class Stage(IntEnum):
    """Stages of a recipe, in order. Passes of one stage can have any order."""

    NORMALISE = 1  # brings the graph to the forms that the other passes know
    FLOAT = 2  # takes a float graph and returns a float graph
    RANGES = 3  # sets the grids of activations, on the float graph in its final form
    WEIGHTS = 4  # sets the grids and codes of weights
    REFINEMENT = 5  # improves codes, scales and biases that exist


@dataclass(frozen=True)
class Pass:
    """Base class of all passes. The defaults are those of a pass that uses no data and learns nothing.

    A pass derives from one of the kinds below. The first three are public: passes of other packages derive from them.

    Attributes:
        name: Name of the pass in recipes.
        stage: Stage of the pass. It comes after all passes of earlier stages and before all passes of later stages.
        keeps_codes: Whether weights keep the codes of the source file.
        settles_layers: Whether layers have their final names and weights, and can be excluded, only after this pass.
        keeps_outputs: Whether the float graph computes the same after the pass. `convert` compares the outputs if nodes
            changed, and refuses to go on if they differ.
        gives_back: Whether the recipe runs again without the pass if it changed nothing, on what it held out too.
        trains: Whether the pass learns from training images, which can be given apart from those that calibrate.
        narrows_floats: Whether what stays in float is float16 in the file.
    """

    name: ClassVar[str]
    stage: ClassVar[Stage]
    keeps_codes: ClassVar[bool] = False
    settles_layers: ClassVar[bool] = False
    keeps_outputs: ClassVar[bool] = False
    gives_back: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    narrows_floats: ClassVar[bool] = False

    @property
    def needs_data(self) -> bool:
        """Whether the pass uses images. A recipe with such a pass is refused if there are no images."""
        return False

    @property
    def held_out(self) -> float:
        """Share of its images that the pass holds out to judge its work. No other pass may see them. 0: none."""
        return 0.0

    @property
    def needs_gradients(self) -> bool:
        """Whether the pass needs gradients of the whole network."""
        return False

    @property
    def device(self) -> Device | None:
        """Device on which the pass learns. None if it does not learn."""
        return None

    @property
    def solver(self) -> "LayerPass | None":
        """The layer pass that solves the layers, also again after their inputs have changed. None if there is none."""
        return None

    def requires(self, model: Model) -> None:
        """Refuse a model that the pass cannot handle.

        A pass that rewrites the float graph is checked right before it runs. All passes of later stages are checked
        together, as soon as the float graph has its final form and before any activation is calibrated.

        Raises:
            QuantizationError: The model does not fit. The message names what is missing and the next step.
        """

    def requires_data(self, data: DataFacts) -> None:
        """Refuse data that the pass cannot use. It is called before any work, if the caller gave data.

        Raises:
            DataError: The data do not fit. The message names what is missing and the next step.
        """
        if self.held_out and data.count < FEWEST_HELD_OUT:
            raise DataError(f"{data.source}: {self.name} needs at least {FEWEST_HELD_OUT} images, not {data.count}")

    def ensures(self, model: Model) -> None:
        """Check after the pass that the model is what the pass promises. `passes.graph.check` runs at the same time.

        Raises:
            QuantizationError: It is not. The message names the layer.
        """

    def with_bits(self, bits: Mapping[str, int], exclude: Collection[str]) -> Self:
        """Return the pass with these weight bits by layer name, and without settings of the excluded layers.

        Raises:
            ValueError: No grid has so many bits.
        """
        return self

    def with_excluded(self, names: Sequence[str]) -> Self | None:
        """Return the pass with these layers left in float too. None if the pass cannot leave layers in float."""
        return None

    def with_device(self, device: Device) -> Self:
        """Return the pass with its learning on a device."""
        return self

    def apply_without_data(self, model: Model) -> None:
        """Change the graph as the pass would, if that needs no data. Speed is measured on such a graph."""


@dataclass(frozen=True)
class GraphPass(Pass):
    """Pass over the whole graph.

    Subclasses set `name` and override `apply`. A pass that wants statistics also overrides `needs`. A pass that does
    not map a float graph to a float graph also sets `stage`.
    """

    stage: ClassVar[Stage] = Stage.FLOAT

    @property
    def needs_data(self) -> bool:
        """Whether the pass wants statistics, that is, whether it overrides `needs`."""
        return type(self).needs is not GraphPass.needs

    def needs(self, model: Model) -> Needs:
        """Return the statistics that `apply` wants."""
        return Needs()

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Rewrite the model."""
        raise QuantizationError(f"{type(self).__name__} does not override apply()")

    def apply_without_data(self, model: Model) -> None:
        """Apply the pass, unless it wants statistics of this model."""
        if not self.needs(model):
            self.apply(model, Stats())


@dataclass(frozen=True)
class LayerPass(Pass):
    """Pass that solves one layer at a time. `converter.calibration.sequential` gives it the layers.

    Attributes:
        bits: Bits of the weights, 2 to 8.
        symmetric: Whether the zero point of weights is 0.
        block_size: Number of inputs that share a scale. None: the whole output channel shares one.
        two_level: Whether the scales of blocks are whole multiples of their channel's scale, which integer kernels can
            read. The block size of a layer is then the divisor of its inputs nearest to `block_size`, or a larger one
            if the layer would have more than 12,288 blocks. Layers of more than 4 bits have one scale per channel (see
            `passes.numerics.two_level`).
        fewest_blocks: Least number of blocks of a layer with `two_level`. Small layers get smaller blocks, down to 3
            inputs. With 0, they keep `block_size`.
        first_last_bits: Bits of the first and the last layer, if they differ.
        layer_bits: Bits by layer name, or by another selector of `passes.ir.selectors`. They override all other bits,
            and a name overrides a pattern.
        sequential: Whether a layer is solved on the outputs of its quantized predecessors.
        recurrent: Whether the weights W and R of LSTM, GRU and RNN get codes too, rounded to nearest on searched
            scales, whatever the pass does to other layers. Without it, only those that `layer_bits` selects get codes.
        recurrent_bits: Bits of these weights, if they differ from `bits`. With it, all of them get codes.
        stored_bits: Whether a layer that the file stores in a wider type uses the bits of that type, for no bytes more:
            4 in INT4, 7 in INT8 on integer kernels, 8 in INT8 elsewhere. Layers in `layer_bits` keep theirs.
    """

    stage: ClassVar[Stage] = Stage.WEIGHTS
    wants_moments: ClassVar[bool] = True
    sqnr_of: ClassVar[str] = "outputs"  # the quantity whose SQNR its solutions report

    bits: int = 4
    symmetric: bool = True
    block_size: int | None = None
    two_level: bool = False
    fewest_blocks: int = 2048
    first_last_bits: int | None = None
    layer_bits: Mapping[str, int] = field(default_factory=dict)
    sequential: bool = True
    recurrent: bool = False
    recurrent_bits: int | None = None
    stored_bits: bool = False

    def __post_init__(self) -> None:
        if self.fewest_blocks < 0:
            raise ValueError(f"fewest_blocks must be 0 or more, not {self.fewest_blocks}")
        ends = self.bits if self.first_last_bits is None else self.first_last_bits
        states = self.bits if self.recurrent_bits is None else self.recurrent_bits
        every = (self.bits, ends, states, *self.layer_bits.values())
        for bits in every:
            code_range(bits)
        GridForm(min(every), self.block_size, self.symmetric, self.two_level, self.searches)  # refuses impossible grids

    @property
    def needs_data(self) -> bool:
        """Whether the pass wants the moments of the layers' inputs."""
        return self.wants_moments

    @property
    def solver(self) -> "LayerPass":
        """This pass."""
        return self

    def requires(self, model: Model) -> None:
        """Require that every layer in `layer_bits` exists and is to be quantized."""
        self.bits_of(model.layers_to_quantize(), model.graph, model.tables(), model.selected)

    def ensures(self, model: Model) -> None:
        """Check that every layer has codes, or a reason to stay in float."""
        require_codes(model, self.name)

    def with_bits(self, bits: Mapping[str, int], exclude: Collection[str]) -> Self:
        """Return the pass with these bits added to `layer_bits`, and without the excluded layers."""
        remaining = {name: count for name, count in self.layer_bits.items() if name not in exclude}
        return dataclasses.replace(self, layer_bits=remaining | dict(bits))

    def alone(self) -> Self:
        """Return a fast variant for one layer on the float network's inputs. Only ratios of its errors matter."""
        return dataclasses.replace(self, sequential=False)

    @property
    def reads_cross(self) -> bool:
        """Whether `solve` reads `Moments.cross`. If not, errors of the inputs may be in `Moments.residual` instead."""
        return True

    @property
    def takes_recurrent(self) -> bool:
        """Whether every LSTM, GRU and RNN gets codes, and not only those that `layer_bits` selects."""
        return self.recurrent or self.recurrent_bits is not None

    @property
    def searches(self) -> bool:
        """Whether weight scales are searched. If not, the largest weight gives the scale."""
        return True

    def solve(self, problem: Problem) -> Solution:
        """Return codes, grid and bias of one layer."""
        raise QuantizationError(f"{type(self).__name__} does not override solve()")

    def grid_form(self, problem: Problem) -> GridForm:
        """Return the form of the layer's grid. A layer without blocks has one scale per channel."""
        two_level = self.two_level and problem.block_size is not None
        return GridForm(problem.bits, problem.block_size, self.symmetric, two_level, self.searches)

    def bits_of(
        self,
        layers: Mapping[str, Linear],
        graph: gs.Graph,
        tables: Collection[str] = (),
        selected: Mapping[str, Collection[str]] = MappingProxyType({}),
    ) -> dict[str, int]:
        """Return the weight bits of every layer.

        ``layers`` of ``graph`` will be quantized, ``tables`` are among them. See `passes.ir.ties.agreed`. For
        ``selected`` see `Model.selected`.

        Raises:
            UnknownLayerError: A selector of `layer_bits` matches no layer.
        """
        bits = dict.fromkeys(layers, self.bits)
        if self.first_last_bits is not None and bits:
            names = list(layers)
            bits[names[0]] = bits[names[-1]] = self.first_last_bits
        named = by_layer(self.layer_bits, graph, [*layers, *recurrent_layers(graph)], "layer_bits", selected)
        return agreed(bits, {name: named[name] for name in layers if name in named}, layers, graph, tables)

    def bits_of_recurrent(self, model: Model) -> dict[str, int]:
        """Return the weight bits of every LSTM, GRU and RNN that gets codes. See `recurrent` and `recurrent_bits`.

        Raises:
            UnknownLayerError: A selector of `layer_bits` matches no layer.
        """
        known = model.recurrent_layers()
        if not known:
            return {}
        every = [*model.layers_to_quantize(), *known]
        named = by_layer(self.layer_bits, model.graph, every, "layer_bits", model.selected)
        wanted = known if self.takes_recurrent else named.keys() & known.keys()
        bits = self.bits if self.recurrent_bits is None else self.recurrent_bits
        return {name: named.get(name, bits) for name in known if name in wanted and name not in model.float_reasons}

    def matched(self, model: Model) -> tuple[str, ...]:
        """Return a line for every selector of `layer_bits` that is no plain name."""
        known = [*model.layers_to_quantize(), *model.recurrent_layers()]
        return matches(select(self.layer_bits, model.graph, known, "layer_bits", model.selected))


@dataclass(frozen=True)
class Correction:
    """Correction of a quantized layer's outputs: multiply by a factor, then add a shift.

    Attributes:
        what: Description of the correction, for the report.
        factor: Factor ``[g, o]``.
        shift: Shift ``[g, o]``.
    """

    what: str
    factor: NDArray[np.float64]
    shift: NDArray[np.float64]


@dataclass(frozen=True)
class CorrectionPass(Pass):
    """Pass that changes the scales and biases of quantized layers, never their codes.

    It compares with `Model.float_weights`, so a layer pass must come before it. Subclasses set `name`.
    """

    stage: ClassVar[Stage] = Stage.REFINEMENT

    @property
    def needs_data(self) -> bool:
        """Always true: the pass compares outputs of layers on images."""
        return True

    def correct(self, outputs: OutputStatistics) -> Correction:
        """Return the correction of one layer from its outputs in the float and the quantized network."""
        raise QuantizationError(f"{type(self).__name__} does not override correct()")


@dataclass(frozen=True)
class LearningPass(Pass):
    """Pass that learns by gradient, starting from existing codes. It only holds the settings of the learning.

    Subclasses have the fields `held_out` and `device`. `converter.pipeline.run_pass` has one runner for each.
    """

    stage: ClassVar[Stage] = Stage.REFINEMENT

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be between 0 and 1, not {self.held_out}")

    @property
    def needs_data(self) -> bool:
        """Always true: the pass learns from images."""
        return True

    def with_device(self, device: Device) -> Self:
        """Return the pass with its learning on a device."""
        settings = {"device": device}
        return dataclasses.replace(self, **settings)
