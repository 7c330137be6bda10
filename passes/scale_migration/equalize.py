"""Cross-layer equalization: give the weights before and behind a channel the same range.

Nagel et al. 2019 (arXiv:1906.04721, §4.1): ``r1 f = r2 / f`` for every channel of every group of tied layers
(`passes.scale_migration.scale_groups`). The step is repeated over all groups until no factor changes. In a chain of
layers this is the paper's method for a pair of layers. A depthwise convolution has one range per channel, which is both
before and behind. Around it, the iteration converges to three equal ranges, ``(r1 r2 r3)^(1/3)``.

Equalization helps with grids per tensor and with block scales. No data is needed. The iteration uses the ranges alone,
and the weights are rescaled once.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from passes.base import GraphPass
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.numerics.error import sqnr_db
from passes.numerics.grid import code_range
from passes.numerics.smooth import equalization
from passes.numerics.weight_scale_search import absmax_grid
from passes.report import Change, PassReport
from passes.scale_migration.rescale import factors_of
from passes.scale_migration.scale_groups import ScaleGroup, input_channels, scale_groups
from passes.scale_migration.scale_search import Migration, over_channels
from passes.statistics import Stats

__all__ = ["Equalize"]

Doubles = NDArray[np.float64]

_SETTLED = 1e-3  # a factor with at most this |log factor| counts as no change


@dataclass(frozen=True)
class Equalize(GraphPass):
    """Cross-layer equalization. It runs before `activation_ranges`.

    Attributes:
        iterations: Most iterations over all groups.
        bits: Bits of the per-tensor grid on which the report measures the weights.

    Raises:
        ValueError: ``bits`` is not in 2..8, or ``iterations`` is less than 1.
    """

    name: ClassVar[str] = "equalize"

    iterations: int = 50
    bits: int = 8

    def __post_init__(self) -> None:
        code_range(self.bits)
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, not {self.iterations}")

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Equalize every group that has layers on both sides.

        Raises:
            QuantizationError: `activation_ranges` has already run.
        """
        analysis = scale_groups(model)
        migration = Migration(self.name, model, analysis)
        layers = model.layers_to_quantize()
        groups = []
        for group in analysis.groups:
            if layers.keys() & group.producers.keys() and layers.keys() & group.consumers.keys():
                groups.append(group)
            else:
                migration.left.update(dict.fromkeys(group.consumers, "no layer before it to share its range with"))
        before = {name: self._sqnr(model, layer) for name, layer in layers.items()}
        for group, factors in zip(groups, self._factors(model, layers, groups), strict=True):
            if np.abs(np.log(factors)).max() > _SETTLED:
                migration.move(group, factors)
            else:
                migration.left.update(dict.fromkeys(group.consumers, "its range is equal to the one before"))
        report = migration.report()
        changed = {
            name: Change("ranges equalized", before[name], self._sqnr(model, layers[name]))
            if name in layers
            else change
            for name, change in report.changed.items()
        }
        return PassReport(self.name, changed, report.skipped)

    def _factors(self, model: Model, layers: dict[str, Linear], groups: list[ScaleGroup]) -> list[Doubles]:
        """Return the factors ``[size]`` of every group's activations."""
        ranges = {name: _ranges(model, layer) for name, layer in layers.items()}
        factors = [np.ones(group.size) for group in groups]
        for _ in range(self.iterations):
            furthest = 0.0
            for index, group in enumerate(groups):
                rows = {name: ranges[name].max(axis=2).reshape(-1) for name in group.producers if name in ranges}
                columns = {name: ranges[name].max(axis=1).reshape(-1) for name in group.consumers if name in ranges}
                step = equalization(
                    over_channels(group.size, group.producers, rows),
                    over_channels(group.size, group.consumers, columns),
                )
                for name in rows:
                    shape = (*ranges[name].shape[:2], 1)
                    ranges[name] = ranges[name] * factors_of(group.producers[name], step).reshape(shape)
                for name in columns:
                    shape = (ranges[name].shape[0], 1, -1)
                    ranges[name] = ranges[name] / factors_of(group.consumers[name], step).reshape(shape)
                factors[index] = factors[index] * step
                furthest = max(furthest, float(np.abs(np.log(step)).max()))
            if furthest <= _SETTLED:
                break
        return factors

    def _sqnr(self, model: Model, layer: Linear) -> float:
        """Return the SQNR in dB of the layer's weight on one grid for the whole tensor."""
        whole = model.weight(layer).reshape(1, 1, -1)
        grid = absmax_grid(whole, self.bits)
        return sqnr_db(whole, grid.values(grid.codes(whole)))


def _ranges(model: Model, layer: Linear) -> Doubles:
    """Return max|W| over the kernel taps, ``[g, o, i]``."""
    weight = model.weight(layer)
    channels = input_channels(layer) // weight.shape[0]
    taps = np.abs(weight).reshape(*weight.shape[:2], channels, -1)  # [g, o, i, taps]
    ranges: Doubles = taps.max(axis=3).astype(np.float64)
    return ranges
