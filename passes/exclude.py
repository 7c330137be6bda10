"""Layers that stay in float because the recipe says so."""

from dataclasses import dataclass
from typing import ClassVar

from passes.base import Change, GraphPass, Model, PassReport, Stats
from passes.layer_names import require_layer

__all__ = ["Exclude"]


@dataclass(frozen=True)
class Exclude(GraphPass):
    """Leave layers in float.

    Attributes:
        layers: their names.
    """

    name: ClassVar[str] = "exclude"

    layers: tuple[str, ...] = ()

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Mark the layers.

        Raises:
            QuantizationError: a layer does not exist; names the nearest.
        """
        known = model.layers()
        for name in self.layers:
            require_layer(name, known, self.name)
            model.kept[name] = "excluded by the recipe"
        changed = {name: Change("left in float") for name in self.layers}
        return PassReport(self.name, changed, {name: "not excluded" for name in known if name not in changed})
