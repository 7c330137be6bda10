"""Layers with quantized weights and float activations, as the recipe requests.

Such a layer runs in float, and its weight is stored as codes like that of any other layer. This is useful for layers
that a machine runs faster in float (`converter.speed` finds them), or whose activations need more than 8 bits.
"""

from dataclasses import dataclass
from typing import ClassVar

from passes.base import GraphPass
from passes.ir.model import Model
from passes.ir.selectors import matches, select
from passes.report import Change, PassReport
from passes.statistics import Stats

__all__ = ["FloatActivations"]


@dataclass(frozen=True)
class FloatActivations(GraphPass):
    """Leave the activations of layers in float. Their weights are still quantized.

    Attributes:
        layers: Names of the layers, or other selectors of `passes.ir.selectors`.
        reason: Reason that the report gives for them.
    """

    name: ClassVar[str] = "float_activations"

    layers: tuple[str, ...] = ()
    reason: str = "float activations by the recipe"

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Mark the layers.

        Raises:
            UnknownLayerError: A selector matches no layer. The message has the nearest names.
        """
        known = model.layers()
        selected = select(self.layers, model.graph, known, self.name)
        names = [name for chosen in selected.values() for name in chosen]
        model.float_activations |= dict.fromkeys(names, self.reason)
        changed = dict.fromkeys(names, Change(self.reason))
        skipped = {name: "not named" for name in known if name not in changed}
        return PassReport(self.name, changed, skipped, notes=matches(selected))
