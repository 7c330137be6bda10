"""Layers that stay in float, as the recipe requests."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from passes.base import GraphPass
from passes.ir.model import Model
from passes.ir.onnx_graph import choices_with_layers
from passes.ir.recurrent import recurrent_layers
from passes.ir.selectors import matches, select
from passes.report import Change, PassReport
from passes.statistics import Stats

__all__ = ["Exclude"]


@dataclass(frozen=True)
class Exclude(GraphPass):
    """Leave layers in float.

    Attributes:
        layers: Names of the layers, or other selectors of `passes.ir.selectors`. An If counts as a layer: its branches
            stay in float. So does a Gather of rows of an embedding table: the table stays in float.
    """

    name: ClassVar[str] = "exclude"
    keeps_outputs: ClassVar[bool] = True

    layers: tuple[str, ...] = ()

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Mark the layers.

        Raises:
            UnknownLayerError: A selector matches no layer. The message has the nearest names.
        """
        layers = model.layers()
        recurrent = recurrent_layers(model.graph)
        tables = [str(node.name) for table in model.lone_tables() for node in table.outputs]
        known = [*layers, *recurrent, *(str(node.name) for node in choices_with_layers(model.graph)), *tables]
        selected = select(self.layers, model.graph, known, self.name)
        names = [name for chosen in selected.values() for name in chosen]
        model.float_tables.update(name for name in names if name in tables)
        others = (name for name in names if name not in layers and name not in recurrent and name not in tables)
        model.float_branches.update(others)
        changed = {name: Change("left in float") for name in names if name in layers or name in recurrent}
        model.float_reasons |= dict.fromkeys(changed, "excluded by the recipe")
        skipped = {name: "not excluded" for name in layers if name not in changed}
        return PassReport(self.name, changed, skipped, notes=matches(selected))

    def with_bits(self, bits: Mapping[str, int], exclude: Collection[str]) -> Self:
        """Without the layers that are given bits: they are quantized after all."""
        return replace(self, layers=tuple(name for name in self.layers if name not in bits))

    def with_excluded(self, names: Sequence[str]) -> Self:
        """With these layers behind its own."""
        return replace(self, layers=tuple(dict.fromkeys((*self.layers, *names))))
