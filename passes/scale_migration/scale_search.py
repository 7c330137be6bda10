"""The search for the scales of groups: consumers of a group's channels, losses of candidates, and the report."""

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

_WORTH = 0.95  # a candidate is taken if its loss is below this share of the loss without scales


@dataclass(frozen=True)
class Consumer:
    """A layer that reads a group's channels.

    Attributes:
        layer: The layer.
        weight: Its weight, ``[g, o, k]``.
        indices: Index of the scale of each input channel, ``[c]``, or -1 if it is fixed.
    """

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
        """Return the weight with the columns of every input channel multiplied by ``s`` ``[c]``."""
        scaled: Floats = (self.weight * input_factors(self.layer, s)[:, None, :]).astype(np.float32)
        return scaled


def consumers(model: Model, groups: Iterable[ScaleGroup]) -> frozenset[str]:
    """Return the names of the layers that read a channel of a group and will be quantized."""
    return frozenset(name for group in groups for name in group.consumers if name not in model.float_reasons)


def calibrated(
    model: Model, group: ScaleGroup, statistics: Mapping[str, ChannelStatistics], name: str
) -> list[Consumer]:
    """Return a group's consumers that will be quantized.

    Args:
        model: The model.
        group: The group.
        statistics: Channel statistics, by layer name.
        name: Name of the pass, for the message.

    Raises:
        QuantizationError: A consumer has no statistics.
    """
    layers = model.layers()
    readers = [reader for reader in group.consumers if reader not in model.float_reasons]
    for reader in readers:
        if reader not in statistics:
            raise QuantizationError(f"{reader}: {name} needs calibration data; use `calibration=`")
    return [Consumer(layers[reader], model.weight(layers[reader]), group.consumers[reader]) for reader in readers]


def over_channels(size: int, members: Mapping[str, Indices], values: Mapping[str, Doubles]) -> Doubles:
    """Return the largest value ``[size]`` among the channels of each scale, or 0 for a scale without channels.

    Args:
        size: Number of scales.
        members: Index of each channel's scale, by layer name: a group's producers, or its consumers.
        values: Values of channels ``[c]``, by layer name.
    """
    largest = np.zeros(size + 1)
    for name, channels in values.items():
        np.maximum.at(largest, members[name], channels)  # index -1, the last entry, collects fixed channels
    return largest[:-1]


def losses_of(
    readers: Sequence[Consumer], candidates: Sequence[Doubles], loss: Callable[[Consumer, Doubles], float]
) -> Doubles:
    """Return the loss ``[r, n]`` of every reader for every candidate.

    Args:
        readers: r layers.
        candidates: n candidates for the scales s, each ``[size]``.
        loss: Loss of a reader, given the scales of its input channels.
    """
    return np.array([[loss(reader, factors_of(reader.indices, s)) for s in candidates] for reader in readers])


def best_of(losses: Doubles, plain: int) -> int:
    """Return the index of the candidate with the least total loss, or ``plain`` if it saves less than 5 %.

    A smaller gain is within the error of the estimate, and within the chance of the next rounding.

    Args:
        losses: Loss of every reader for every candidate, ``[r, n]``.
        plain: Index of the candidate that changes nothing.
    """
    total = losses.sum(axis=0)
    best = int(total.argmin())
    return best if total[best] < _WORTH * total[plain] else plain


@dataclass
class Migration:
    """Decisions about groups. They are applied together at the end, so that all are made on the original weights.

    Attributes:
        name: Name of the pass.
        model: The model.
        analysis: Its scale groups.
        changed: Layers whose inputs are rescaled.
        left: Why a layer that could be rescaled is not, by layer name.
        grids: Losses of the search, by layer name.
    """

    name: str
    model: Model
    analysis: ScaleGroups
    changed: dict[str, Change] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    grids: dict[str, LossGrid] = field(default_factory=dict)
    _moves: list[tuple[ScaleGroup, Doubles]] = field(default_factory=list)

    def move(self, group: ScaleGroup, factors: Doubles) -> None:
        """Decide to multiply the group's activations by ``factors`` ``[size]``. `report` applies it."""
        self._moves.append((group, factors))

    def report(self) -> PassReport:
        """Rescale the model, and report on every layer.

        Raises:
            ValueError: A factor is not finite and positive, or the number of factors is not the group's size.
        """
        changed = dict(self.changed)
        for group, factors in self._moves:
            rescale(self.model, group, factors)
            for name in {**group.producers, **group.consumers}:
                changed.setdefault(name, Change("rescaled together with the layers beside it"))
        skipped = {name: self._reason(name) for name in self.model.layers() if name not in changed}
        return PassReport(self.name, changed, skipped, grids=self.grids)

    def _reason(self, name: str) -> str:
        return (
            self.model.float_reasons.get(name)
            or self.left.get(name)
            or self.analysis.inputs.get(name, "nothing to rescale")
        )
