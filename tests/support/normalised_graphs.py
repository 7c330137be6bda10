"""Graphs after `normalise`, and the nodes that its tests build them from."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper

from passes.graph.normalise.normalise import normalise
from passes.ir.onnx_graph import import_graph
from tests.support.graphs import array, assert_same_outputs, node

__all__ = ["IMAGE", "constant", "conv", "normalised"]

IMAGE = (2, 3, 8, 8)


def normalised(model: onnx.ModelProto) -> gs.Graph:
    """Return the normalised graph, and check that it computes the same as the model."""
    graph = import_graph(model)
    normalise(graph)
    assert_same_outputs(model, graph, array(*IMAGE, seed=9))
    return graph


def constant(name: str, values: np.ndarray) -> onnx.NodeProto:
    return node("Constant", [], [name], value=numpy_helper.from_array(values, name))


def conv(source: str, result: str, name: str = "conv", weight: str = "") -> onnx.NodeProto:
    return node("Conv", [source, weight or f"{name}.weight"], [result], name=name)
