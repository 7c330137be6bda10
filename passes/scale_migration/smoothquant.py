"""SmoothQuant for convolutional networks: move outlier channels of activations into the weights.

Xiao et al. 2023 (arXiv:2211.10438) scale the inputs of a transformer's linear layers. Here every group of layers with
tied channels (`passes.scale_migration.scale_groups`) gets one ``s``. It is folded into the layers before, so it costs
nothing at run time. With ``alpha = "search"`` each group takes the α with the least expected noise at its consumers'
outputs (`passes.numerics.noise`). A group that does not gain from it stays unchanged.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from passes.activations.placement import place
from passes.base import GraphPass
from passes.ir.model import Model
from passes.numerics.error import decibel
from passes.numerics.grid import code_range
from passes.numerics.noise import activation_error, expected_noise, noise_gain
from passes.numerics.smooth import smoothquant
from passes.report import Change, LossGrid, PassReport
from passes.scale_migration.rescale import factors_of
from passes.scale_migration.scale_groups import ScaleGroup, scale_groups
from passes.scale_migration.scale_search import (
    Consumer,
    Migration,
    best_of,
    calibrated,
    consumers,
    losses_of,
    over_channels,
)
from passes.scale_migration.scale_ties import Wires
from passes.statistics import Needs, Stats

__all__ = ["SmoothQuant"]

Doubles = NDArray[np.float64]

_ALPHAS = tuple(float(alpha) for alpha in np.linspace(0, 1, 21).round(2))


@dataclass(frozen=True)
class SmoothQuant(GraphPass):
    """SmoothQuant. It runs before `activation_ranges`.

    Attributes:
        alpha: Share of the difficulty that moves to the weights, 0 to 1. "search" takes the best for each group, if
            any.
        bits: Bits per weight that the search assumes.

    Raises:
        ValueError: ``alpha`` or ``bits`` is out of range.
    """

    name: ClassVar[str] = "smoothquant"

    alpha: float | Literal["search"] = "search"
    bits: int = 8

    def __post_init__(self) -> None:
        code_range(self.bits)
        if not isinstance(self.alpha, str) and not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be 0 to 1 or 'search', not {self.alpha}")

    def needs(self, model: Model) -> Needs:
        """Request channel statistics of inputs that can be scaled, and of quantized tensors with the same scales."""
        groups = scale_groups(model).groups
        tensors = {(name, wires.axis) for group in groups for name, wires in _between(model, group).items()}
        return Needs(channels=consumers(model, groups), tensors=frozenset(tensors))

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Choose s for every group, then rescale all groups.

        Raises:
            QuantizationError: There are no statistics, or `activation_ranges` has already run.
        """
        analysis = scale_groups(model)
        migration = Migration(self.name, model, analysis)
        alphas = _ALPHAS if isinstance(self.alpha, str) else (self.alpha,)
        for group in analysis.groups:
            readers = calibrated(model, group, stats.channels, self.name)
            if not readers:
                continue
            inputs = {r.layer.name: stats.channels[r.layer.name].absmax for r in readers}
            largest = {r.layer.name: r.largest_weights for r in readers}
            activations, weights = (over_channels(group.size, group.consumers, side) for side in (inputs, largest))
            candidates = [np.ones(group.size), *(smoothquant(activations, weights, alpha) for alpha in alphas)]
            losses = losses_of(readers, candidates, lambda reader, s: self._noise(reader, s, stats))  # [r, 1 + a]
            others = self._losses_between(model, group, readers, candidates, stats)  # [t, 1 + a]
            best = best_of(np.concatenate([losses, others]), 0) if isinstance(self.alpha, str) else 1
            for reader, loss in zip(readers, losses, strict=True):
                migration.grids[reader.layer.name] = LossGrid({"alpha": alphas}, loss[1:], float(loss[0]))
                if best == 0:
                    migration.left[reader.layer.name] = "no alpha is expected to lower the noise by 5 %"
                    continue
                what = f"inputs smoothed with alpha {alphas[best - 1]:g}"
                change = Change(what, decibel(1.0, float(loss[0])), decibel(1.0, float(loss[best])))
                migration.changed[reader.layer.name] = change
            if best:
                migration.move(group, 1 / candidates[best])
        return migration.report()

    def _noise(self, reader: Consumer, s: Doubles, stats: Stats) -> float:
        """Return the expected noise of a layer whose input channels are divided by ``s`` ``[c]``."""
        inputs = stats.channels[reader.layer.name].rescaled(1 / s)
        return expected_noise(reader.scaled(s), inputs, self.bits)

    def _losses_between(
        self, model: Model, group: ScaleGroup, readers: list[Consumer], candidates: list[Doubles], stats: Stats
    ) -> Doubles:
        """Return the noise ``[t, 1 + a]`` that quantized tensors between the layers add to an average reader."""
        tensors = _between(model, group)
        losses = np.zeros((len(tensors), len(candidates)))
        for column, s in enumerate(candidates):
            gain = np.zeros(group.size + 1)
            for reader in readers:
                own = factors_of(reader.indices, s)
                inputs = stats.channels[reader.layer.name].rescaled(1 / own)
                np.add.at(gain, reader.indices, noise_gain(reader.scaled(own), inputs) / len(readers))
            gain[-1] = 0.0  # collects channels whose scale is fixed
            for row, (name, wires) in enumerate(tensors.items()):
                scaled = stats.tensors[name].rescaled(1 / factors_of(wires.ids, s))
                losses[row, column] = gain[wires.ids] @ activation_error(scaled)
        return losses


def _between(model: Model, group: ScaleGroup) -> dict[str, Wires]:
    """Return the group's quantized tensors that no layer reads: operands of residual Adds, and inputs of pools."""
    layers = model.layers()
    quantized = frozenset(layers) - frozenset(model.float_reasons)
    if not quantized & group.consumers.keys():
        return {}
    sources = set(place(model.graph, model.rules, quantized).tensors.values())
    return {name: group.tensors[name] for name in sources & group.tensors.keys() - {r.input for r in layers.values()}}
