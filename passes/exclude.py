"""Layers that stay in float because the recipe says so."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar

from passes.base import Change, GraphPass, Model, PassReport, Stats
from passes.errors import QuantizationError

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
            if name not in known:
                nearest = get_close_matches(name, known, 1)
                hint = f"did you mean {nearest[0]!r}?" if nearest else f"the layers are {', '.join(known)}"
                raise QuantizationError(f"exclude: no layer is named {name!r}; {hint}")
            model.kept[name] = "excluded by the recipe"
        changed = {name: Change("left in float") for name in self.layers}
        return PassReport(self.name, changed, {name: "not excluded" for name in known if name not in changed})
