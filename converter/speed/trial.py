"""Files that take as long as the real ones and need no calibration: grids invented, weights plainly rounded.

What a file's operators are, and so how long it takes, follows from its graph and from which layers are left in float;
not from scales and codes.
"""

from collections.abc import Collection

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from converter.calibration.sequential import solve_layers
from converter.qdq.writer import emit
from converter.recipes.recipe import Recipe
from converter.targets.target import Target
from passes.activations.activation_ranges import placement_of, spread
from passes.activations.placement import Placement
from passes.base import GraphPass, Stage
from passes.ir.model import Model
from passes.numerics.grid import ActivationGrid
from passes.statistics import Stats
from passes.weights.rtn import Rtn

__all__ = ["Trials"]

_REASON = "tried with float activations"


def _unseen(what: str, done: int, total: int) -> None:
    """Progress of what takes no time."""


class Trials:
    """A model, quantized but for what calibration and rounding would find; a file for every choice of layers.

    Args:
        source: the float model, which stays as it is.
        recipe: whose passes change the graph.
        target: which decides what runs on integers.
    """

    def __init__(self, source: onnx.ModelProto, recipe: Recipe, target: Target) -> None:
        self.model = Model(gs.import_onnx(source), target.rules)
        self._storage = target.storage(recipe.storage)
        for step in recipe.passes:
            if isinstance(step, GraphPass) and step.stage < Stage.RANGES and not step.needs(self.model):
                step.apply(self.model, Stats())
        self._given = dict(self.model.float_activations)
        self._place(())
        solve_layers(self.model, Rtn(bits=8, scale="absmax"), None, _unseen)
        self.layers = tuple(layer for layer in self.model.layers().values() if self.model.reads_integers(layer))

    def file(self, floats: Collection[str]) -> onnx.ModelProto:
        """The file with the activations of these layers, and of those that the recipe names, in float."""
        self._place(floats)
        return emit(self.model, self._storage)

    def _place(self, floats: Collection[str]) -> None:
        self.model.float_activations = self._given | dict.fromkeys(floats, _REASON)
        placement = placement_of(self.model)
        grids = {source: self._grid(placement, source) for source in placement.tensors.values()}
        self.model.activation_qparams = spread(placement, grids)

    def _grid(self, placement: Placement, tensor: str) -> ActivationGrid:
        """-1 to 1, or as much of it as a clamp lets through: then the clamp is absorbed, as it is in the real file."""
        low, high = placement.bounds.get(tensor, (-np.inf, np.inf))
        rules = self.model.rules
        return ActivationGrid.of(max(-1.0, low), min(1.0, high), signed=rules.signed, symmetric=rules.symmetric)
