"""Models of one layer, and the layer's geometry."""

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.ir.linear import Linear, find_linear
from tests.support.graphs import array, build, node

__all__ = ["convolution", "first_node", "layer_of"]


def first_node(model: onnx.ModelProto) -> gs.Node:
    """Return the first node, as graphsurgeon reads it."""
    return gs.import_onnx(model).nodes[0]


def layer_of(model: onnx.ModelProto) -> tuple[Linear, np.ndarray, np.ndarray | None]:
    """Return the geometry of a model's only node, and its stored weight and bias."""
    node = first_node(model)
    bias = node.inputs[2].values if len(node.inputs) > 2 else None
    return find_linear(node), node.inputs[1].values, bias


def convolution(op: str, weight: tuple[int, ...], x: tuple[int, ...], bias: int | None, **attributes: Any) -> Any:
    """Make a model of one convolution with a weight and an input of these shapes, and a bias of a given size."""
    constants = {"w": array(*weight)} | ({} if bias is None else {"b": array(bias, seed=1)})
    return build([node(op, ["x", *constants], ["y"], name="layer", **attributes)], constants, x)
