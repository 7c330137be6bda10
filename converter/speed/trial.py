"""Files with the speed of the real ones, without calibration. Grids are made up, and weights are rounded to nearest.

The operators of a file, and so its speed, depend on the graph and on the layers that are left in float. They do not
depend on scales and codes.
"""

from collections.abc import Collection

import numpy as np
import onnx

from converter.calibration.sequential import solve_layers
from converter.qdq.writer import emit
from converter.recipes.recipe import Recipe
from converter.targets.target import Target
from passes.activations.activation_ranges import placement_of, spread
from passes.activations.placement import Placement, clamp_bounds
from passes.base import Stage
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.ir.onnx_graph import import_graph
from passes.numerics.grid import ActivationGrid
from passes.weights.rtn import Rtn

__all__ = ["Trials"]

_REASON = "tried with float activations"


def _ignore_progress(what: str, done: int, total: int) -> None:
    """Ignore the progress of work that takes no time."""


class Trials:
    """A model that is quantized with made-up grids. It gives a file for every choice of float layers.

    Args:
        source: The float model. It is not changed.
        recipe: Its passes change the graph.
        target: Decides what runs on integers.
    """

    def __init__(self, source: onnx.ModelProto, recipe: Recipe, target: Target) -> None:
        self.model = Model(import_graph(source), target.rules)
        self._storage = target.storage(recipe.storage)
        for step in recipe.passes:
            if step.stage < Stage.RANGES:
                step.apply_without_data(self.model)
        self._recipe_floats = dict(self.model.float_activations)
        self._place(())
        solve_layers(self.model, Rtn(bits=8, scale="absmax"), None, _ignore_progress)
        self.layers = tuple(layer for layer in self.model.layers().values() if self.model.reads_integers(layer))

    def file(self, floats: Collection[str]) -> onnx.ModelProto:
        """Return the file with float activations in these layers and in those that the recipe names."""
        self._place(floats)
        return emit(self.model, self._storage, smallest=True)

    def nodes_of(self, layer: Linear) -> list[str]:
        """Name the nodes of a layer: itself, the clamp behind it, and the nodes that round its input and output."""
        readers = self.model.node(layer.name).outputs[0].outputs
        clamp = readers[0] if len(readers) == 1 and clamp_bounds(readers[0]) is not None else None
        tensors = [layer.input, layer.output if clamp is None else str(clamp.outputs[0].name)]
        rounding = [f"{tensor}_{verb}" for tensor in tensors for verb in ("quantize", "dequantize")]
        return [layer.name, layer.name if clamp is None else str(clamp.name), *rounding]

    def _place(self, floats: Collection[str]) -> None:
        self.model.float_activations = self._recipe_floats | dict.fromkeys(floats, _REASON)
        placement = placement_of(self.model)
        grids = {source: self._grid(placement, source) for source in placement.tensors.values()}
        self.model.activation_qparams = spread(placement, grids)

    def _grid(self, placement: Placement, tensor: str) -> ActivationGrid:
        """Return a grid from -1 to 1, cut to the bounds of a clamp. So the clamp is absorbed, as in the real file."""
        low, high = placement.bounds.get(tensor, (-np.inf, np.inf))
        rules = self.model.rules
        return ActivationGrid.of(max(-1.0, low), min(1.0, high), signed=rules.signed, symmetric=rules.symmetric)
