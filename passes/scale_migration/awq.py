"""AWQ for convolutional networks: input channels with large activations get finer steps of the weight grid.

Lin et al. 2024 (arXiv:2306.00978) scale the inputs of a linear layer by ``s = mean|X|^α``. Here all layers of a group
with tied channels (`passes.scale_migration.scale_groups`) share one s. It is folded into the layers before. In the
channels with the largest mean |x|, the salient ones, s is multiplied by a factor. A grid search chooses α and the
factor by the output error, which follows from the Hessian (`passes.numerics.awq`). α = 0 with factor 1 is one of the
candidates, so the error never grows.
"""

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from passes.base import GraphPass
from passes.ir.model import Model
from passes.numerics.awq import output_power, rounding_noise
from passes.numerics.error import decibel
from passes.numerics.grid import code_range
from passes.numerics.smooth import awq, salient
from passes.report import Change, LossGrid, PassReport
from passes.scale_migration.rescale import input_factors
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
from passes.statistics import Needs, Stats

__all__ = ["Awq"]

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Awq(GraphPass):
    """AWQ. It runs before `activation_ranges` and the pass that rounds the weights.

    Attributes:
        bits: Bits per weight that the search assumes.
        block_size: Number of inputs that share a scale, for the search. None: the whole output channel.
        symmetric: Whether the search assumes zero point 0.
        steps: Number of steps in which α goes from 0 to 1.
        factors: Factors to try on the salient channels. 1 is always tried.
        salient_share: Share of the channels that is salient.

    Raises:
        ValueError: A field is out of range.
    """

    name: ClassVar[str] = "awq"

    bits: int = 4
    block_size: int | None = None
    symmetric: bool = True
    steps: int = 10
    factors: tuple[float, ...] = (1.0, 1.5)
    salient_share: float = 0.01

    def __post_init__(self) -> None:
        code_range(self.bits)
        if self.block_size is not None and self.block_size < 1:
            raise ValueError(f"block_size must be at least 1, not {self.block_size}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if not all(0 < factor < np.inf for factor in self.factors):
            raise ValueError(f"factors must be positive, not {self.factors}")
        if not 0 < self.salient_share <= 1:
            raise ValueError(f"salient_share must be above 0 and at most 1, not {self.salient_share}")

    def needs(self, model: Model) -> Needs:
        """Request channel statistics and moments of every layer whose inputs can be scaled."""
        names = consumers(model, scale_groups(model).groups)
        return Needs(channels=names, moments=names)

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Choose s for every group, then rescale all groups.

        Raises:
            QuantizationError: There are no statistics, or `activation_ranges` has already run.
        """
        analysis = scale_groups(model)
        migration = Migration(self.name, model, analysis)
        axes = {
            "alpha": tuple(float(alpha) for alpha in np.linspace(0, 1, self.steps + 1).round(3)),
            "factor": tuple(sorted({1.0, *map(float, self.factors)})),
        }
        points = list(product(*axes.values()))
        shape = tuple(map(len, axes.values()))
        for group in analysis.groups:
            readers = calibrated(model, group, stats.channels, self.name)
            if not readers:
                continue
            candidates = self._candidates(group, readers, stats, points)
            losses = losses_of(readers, candidates, lambda reader, s: self._noise(reader, s, stats))  # [r, n]
            losses /= np.array([[self._power(reader, stats)] for reader in readers])
            unscaled = points.index((0.0, 1.0))
            best = best_of(losses, unscaled)
            for reader, loss in zip(readers, losses, strict=True):
                name = reader.layer.name
                migration.grids[name] = LossGrid(axes, loss.reshape(shape), float(loss[unscaled]))
                if best == unscaled:
                    migration.left[name] = "no scale lowers the output error by 5 %"
                    continue
                alpha, factor = points[best]
                what = f"inputs scaled with alpha {alpha:g}" + (f", salient ones by {factor:g}" if factor != 1 else "")
                change = Change(what, decibel(1.0, float(loss[unscaled])), decibel(1.0, float(loss[best])))
                migration.changed[name] = change
            if best != unscaled:
                migration.move(group, 1 / candidates[best])
        return migration.report()

    def _candidates(
        self, group: ScaleGroup, readers: list[Consumer], stats: Stats, points: list[tuple[float, ...]]
    ) -> list[Doubles]:
        """Return s ``[size]`` for every pair of α and factor."""
        names = [reader.layer.name for reader in readers]
        mean_abs = over_channels(group.size, group.consumers, {name: stats.channels[name].mean_abs for name in names})
        mask = salient(mean_abs, self.salient_share)
        return [awq(mean_abs, alpha) * np.where(mask, factor, 1.0) for alpha, factor in points]

    def _noise(self, reader: Consumer, s: Doubles, stats: Stats) -> float:
        """Return the output error of a rounded layer whose input channels are divided by ``s`` ``[c]``."""
        moments = stats.moments[reader.layer.name].rescaled(1 / input_factors(reader.layer, s))
        return rounding_noise(
            reader.scaled(s), moments.hessian, self.bits, block_size=self.block_size, symmetric=self.symmetric
        )

    def _power(self, reader: Consumer, stats: Stats) -> float:
        """Return the power of the layer's output, or 1 if it is zero, so that the relative error is 0."""
        return output_power(reader.weight, stats.moments[reader.layer.name].hessian) or 1.0
