"""Models of one layer, and the layer's geometry."""

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.ir.linear import Linear, find_linear
from tests.support.graphs import array, build, node

__all__ = ["convolution", "first_node", "layer_of"]


def first_node(model: onnx.ModelProto) -> gs.Node:
    """As graphsurgeon reads it."""
    return gs.import_onnx(model).nodes[0]


def layer_of(model: onnx.ModelProto) -> tuple[Linear, np.ndarray, np.ndarray | None]:
    """The geometry of a model's only node, its weight and its bias as they are stored."""
    found = first_node(model)
    bias = found.inputs[2].values if len(found.inputs) > 2 else None
    return find_linear(found), found.inputs[1].values, bias


def convolution(op: str, weight: tuple[int, ...], x: tuple[int, ...], bias: int | None, **attributes: Any) -> Any:
    """A model of one convolution with a weight and input of these shapes, and so many biases."""
    constants = {"w": array(*weight)} | ({} if bias is None else {"b": array(bias, seed=1)})
    return build([node(op, ["x", *constants], ["y"], name="layer", **attributes)], constants, x)
