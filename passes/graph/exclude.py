"""Layers that stay in float, as the recipe requests."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from passes.base import GraphPass
from passes.ir.layer_names import require_known
from passes.ir.model import Model
from passes.report import Change, PassReport
from passes.statistics import Stats

__all__ = ["Exclude"]


@dataclass(frozen=True)
class Exclude(GraphPass):
    """Leave layers in float.

    Attributes:
        layers: Names of the layers.
    """

    name: ClassVar[str] = "exclude"

    layers: tuple[str, ...] = ()

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Mark the layers.

        Raises:
            UnknownLayerError: A layer does not exist. The message has the nearest names.
        """
        known = model.layers()
        require_known(self.layers, known, self.name)
        model.float_reasons |= dict.fromkeys(self.layers, "excluded by the recipe")
        changed = dict.fromkeys(self.layers, Change("left in float"))
        return PassReport(self.name, changed, {name: "not excluded" for name in known if name not in changed})

    def with_bits(self, bits: Mapping[str, int], exclude: Collection[str]) -> Self:
        """Without the layers that are given bits: they are quantized after all."""
        return replace(self, layers=tuple(name for name in self.layers if name not in bits))

    def with_excluded(self, names: Sequence[str]) -> Self:
        """With these layers behind its own."""
        return replace(self, layers=tuple(dict.fromkeys((*self.layers, *names))))
