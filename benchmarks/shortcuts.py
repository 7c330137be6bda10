"""Simplest rounding of weights: to the nearest of evenly spaced values, with the largest weight as the end.

It needs no data, no search and no correction. Activations stay in float. First attempts at quantization do this, often
with one scale for a whole layer or before batch normalization is folded.
"""

from typing import Literal

import onnx
import onnx_graphsurgeon as gs

from converter.qdq.floats import float_model
from converter.targets.catalog import DEFAULT_TARGET, find_target
from passes.graph.fold_batchnorm import FoldBatchnorm
from passes.graph.normalise.normalise import Normalise
from passes.ir.model import Model
from passes.numerics.grid import Floats
from passes.numerics.weight_scale_search import absmax_grid
from passes.statistics import Stats

__all__ = ["SHORTCUTS", "Scales", "rounded"]

Scales = Literal["channel", "layer"]

SHORTCUTS: tuple[tuple[str, Scales, bool], ...] = (
    ("a scale a channel, batch normalization apart", "channel", False),
    ("a scale a channel, folded", "channel", True),
    ("a scale a layer, batch normalization apart", "layer", False),
    ("a scale a layer, folded", "layer", True),
)
"""Each shortcut: its label, which weights share a scale, and whether batch normalization is folded first."""


def rounded(source: onnx.ModelProto, bits: int, scales: Scales, *, folded: bool) -> onnx.ModelProto:
    """Return the float model with the weights of every layer rounded to ``bits``."""
    model = Model(gs.import_onnx(source), find_target(DEFAULT_TARGET).rules)
    Normalise().apply(model, Stats())
    if folded:
        FoldBatchnorm().apply(model, Stats())
    for layer in model.layers().values():
        model.write(layer, _nearest(model.weight(layer), bits, scales), None)
    return float_model(model.graph)


def _nearest(weight: Floats, bits: int, scales: Scales) -> Floats:
    """Round a weight ``[g, o, k]`` to its grid. A layer with one scale is treated as one channel."""
    matrix = weight if scales == "channel" else weight.reshape(1, 1, -1)
    grid = absmax_grid(matrix, bits)
    values: Floats = grid.values(grid.codes(matrix)).reshape(weight.shape)
    return values
