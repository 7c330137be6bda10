"""A search for the scales of groups: who reads a group's channels, what candidates cost them, and the report."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from passes.errors import QuantizationError
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.numerics.channels import ChannelStatistics
from passes.numerics.grid import Floats
from passes.report import Change, LossGrid, PassReport
from passes.scale_migration.rescale import factors_of, input_factors, rescale
from passes.scale_migration.scale_groups import ScaleGroup, ScaleGroups, input_channels
from passes.scale_migration.scale_ties import Indices

__all__ = ["Consumer", "Migration", "best_of", "calibrated", "consumers", "losses_of", "over_channels"]

Doubles = NDArray[np.float64]

_WORTH = 0.95


@dataclass(frozen=True)
class Consumer:
    """A layer that reads a group's channels: its weight ``[g, o, k]``, and the scale of each input channel ``[c]``."""

    layer: Linear
    weight: Floats
    indices: Indices

    @property
    def largest_weights(self) -> Doubles:
        """max|W| of every input channel ``[c]``."""
        groups, _, k = self.layer.matrix_shape
        channels = input_channels(self.layer)
        largest: Doubles = np.abs(self.weight).max(axis=1).reshape(channels, groups * k // channels).max(axis=1)
        return largest.astype(np.float64)

    def scaled(self, s: Doubles) -> Floats:
        """The weight with the columns of every input channel multiplied by ``s`` ``[c]``."""
        scaled: Floats = (self.weight * input_factors(self.layer, s)[:, None, :]).astype(np.float32)
        return scaled


def consumers(model: Model, groups: Iterable[ScaleGroup]) -> frozenset[str]:
    """The layers that read a channel of a group and are to be quantized."""
    return frozenset(name for group in groups for name in group.consumers if name not in model.float_reasons)


def calibrated(
    model: Model, group: ScaleGroup, statistics: Mapping[str, ChannelStatistics], name: str
) -> list[Consumer]:
    """A group's `consumers`.

    Raises:
        QuantizationError: one of them has no statistics.
    """
    layers = model.layers()
    readers = [reader for reader in group.consumers if reader not in model.float_reasons]
    for reader in readers:
        if reader not in statistics:
            raise QuantizationError(f"{reader}: {name} needs calibration data; use --calibration")
    return [Consumer(layers[reader], model.weight(layers[reader]), group.consumers[reader]) for reader in readers]


def over_channels(size: int, members: Mapping[str, Indices], values: Mapping[str, Doubles]) -> Doubles:
    """The largest value of every scale ``[size]`` among channels ``[c]`` of layers, by name; 0 of none.

    ``members`` say which channel has which scale: a group's producers, or its consumers.
    """
    largest = np.zeros(size + 1)
    for name, channels in values.items():
        np.maximum.at(largest, members[name], channels)  # the last is of those without a scale, -1
    return largest[:-1]


def losses_of(
    readers: Sequence[Consumer], candidates: Sequence[Doubles], loss: Callable[[Consumer, Doubles], float]
) -> Doubles:
    """The loss ``[r, n]`` of every reader for every candidate s ``[size]``, which ``loss`` gets by input channel."""
    return np.array([[loss(reader, factors_of(reader.indices, s)) for s in candidates] for reader in readers])


def best_of(losses: Doubles, plain: int) -> int:
    """The candidate with the least loss over all readers ``[r, n]``; ``plain`` unless it saves 5 %.

    What a smaller gain promises is within the error of an expectation, and of how the next rounding happens to fall.
    """
    total = losses.sum(axis=0)
    best = int(total.argmin())
    return best if total[best] < _WORTH * total[plain] else plain


@dataclass
class Migration:
    """Decisions about groups, moved into the model together so that each is taken on the weights as they were.

    Attributes:
        changed: layers whose inputs are rescaled.
        left: why layers are left as they are though they could be rescaled.
        grids: losses of the search.
    """

    name: str
    model: Model
    analysis: ScaleGroups
    changed: dict[str, Change] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    grids: dict[str, LossGrid] = field(default_factory=dict)
    _moves: list[tuple[ScaleGroup, Doubles]] = field(default_factory=list)

    def move(self, group: ScaleGroup, factors: Doubles) -> None:
        """Let the group's activations be multiplied by ``factors`` ``[size]``."""
        self._moves.append((group, factors))

    def report(self) -> PassReport:
        """Rescale the model and account for every layer."""
        changed = dict(self.changed)
        for group, factors in self._moves:
            rescale(self.model, group, factors)
            for name in {**group.producers, **group.consumers}:
                changed.setdefault(name, Change("rescaled for the layers beside it"))
        skipped = {name: self._reason(name) for name in self.model.layers() if name not in changed}
        return PassReport(self.name, changed, skipped, grids=self.grids)

    def _reason(self, name: str) -> str:
        return (
            self.model.float_reasons.get(name)
            or self.left.get(name)
            or self.analysis.inputs.get(name, "nothing to rescale")
        )
