"""Layers and operators that treat every channel by itself, and tensors whose channels must stay."""

import onnx_graphsurgeon as gs

from passes.ir.bodies import names_inside
from passes.ir.linear import Linear
from passes.ir.onnx_graph import node_bodies
from passes.ir.surgery import graph_output_names, is_default_domain

__all__ = ["acts_by_channel", "is_depthwise", "settled_tensors"]

_BY_CHANNEL = frozenset(
    {
        *("AveragePool", "Clip", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish", "Identity"),
        *("LeakyRelu", "MaxPool", "Relu", "Sigmoid"),
    }
)


def acts_by_channel(node: gs.Node) -> bool:
    """Return whether a node computes every channel of its only output from that channel of its first input alone."""
    alone = all(isinstance(each, gs.Constant) or not each.name for each in node.inputs[1:])
    return node.op in _BY_CHANNEL and is_default_domain(node) and alone and len(node.outputs) == 1


def is_depthwise(layer: Linear) -> bool:
    """Return whether a layer is a convolution of one input and one output for each of several channels."""
    return layer.op == "Conv" and layer.groups == layer.outputs == layer.inputs > 1


def settled_tensors(graph: gs.Graph) -> set[str]:
    """Return the names of tensors that are read elsewhere: the graph's outputs, and what bodies of nodes read."""
    return graph_output_names(graph) | names_inside(body for node in graph.nodes for body in node_bodies(node))
