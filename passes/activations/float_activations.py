"""Nodes that run in float, as the recipe requests. The weight of a layer among them is quantized all the same.

This is useful for layers that a machine runs faster in float (`converter.speed` finds them), and for activations that
need more than 8 bits (`converter.error_sources` finds them): a tensor stays in float if what writes and reads it does.
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
    """Leave the activations of nodes in float. Weights are still quantized.

    Attributes:
        layers: Names of layers or of other nodes that could run on integers, such as an Add, or other selectors of
            `passes.ir.selectors`.
        reason: Reason that the report gives for them.
    """

    name: ClassVar[str] = "float_activations"

    layers: tuple[str, ...] = ()
    reason: str = "float activations by the recipe"

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Mark the nodes.

        Raises:
            UnknownLayerError: A selector matches no node. The message has the nearest names.
        """
        layers = model.layers()
        known = [str(node.name) for node in model.graph.nodes]
        selected = select(self.layers, model.graph, known, self.name)
        names = [name for chosen in selected.values() for name in chosen]
        model.float_activations |= dict.fromkeys(names, self.reason)
        changed = {name: Change(self.reason) for name in names if name in layers}
        skipped = {name: "not named" for name in layers if name not in changed}
        return PassReport(self.name, changed, skipped, notes=matches(selected))
