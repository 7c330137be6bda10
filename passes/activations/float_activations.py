"""Layers whose weights are codes and whose activations stay floats, because the recipe says so.

Such a layer runs in float, and its weight takes as little room in the file as any other's. It is for layers that a
machine runs faster so (`converter.speed` finds them), or whose activations are worth more than 8 bits.
"""

from dataclasses import dataclass
from typing import ClassVar

from passes.base import GraphPass
from passes.ir.layer_names import require_known
from passes.ir.model import Model
from passes.report import Change, PassReport
from passes.statistics import Stats

__all__ = ["FloatActivations"]


@dataclass(frozen=True)
class FloatActivations(GraphPass):
    """Leave the activations of layers in float; their weights are quantized all the same.

    Attributes:
        layers: their names.
        reason: what reports say of them.
    """

    name: ClassVar[str] = "float_activations"

    layers: tuple[str, ...] = ()
    reason: str = "float activations by the recipe"

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Mark the layers.

        Raises:
            QuantizationError: a layer does not exist; names the nearest.
        """
        known = model.layers()
        require_known(self.layers, known, self.name)
        model.float_activations |= dict.fromkeys(self.layers, self.reason)
        changed = dict.fromkeys(self.layers, Change(self.reason))
        return PassReport(self.name, changed, {name: "not named" for name in known if name not in changed})
