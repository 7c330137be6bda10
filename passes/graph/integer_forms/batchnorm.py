"""A BatchNormalization that no layer could take up, as behind a Concat, as a depthwise 1x1 convolution.

y = a x + c per channel, with a = gamma / sqrt(var + epsilon) and c = beta - a mean. One weight per channel lies on its
channel's grid exactly, at any number of bits, so nothing is lost but the rounding of y.
"""

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.fold_batchnorm import affine
from passes.graph.normalise.shapes import Shapes
from passes.ir.rules import Rules
from passes.ir.surgery import fresh_name, graph_output_names, is_default_domain, replace_node, tensor_names

__all__ = ["norms_as_convolutions"]


def norms_as_convolutions(graph: gs.Graph, rules: Rules, shapes: Shapes) -> list[str]:
    """Rewrite every BatchNormalization between operators; returns a line for each."""
    notes = []
    taken = tensor_names(graph)
    for node in list(graph.nodes):
        if node.op != "BatchNormalization" or not is_default_domain(node) or len(node.outputs) != 1:
            continue
        source = node.inputs[0]
        rank, found = len(shapes.get(source.name, ())), affine(node)
        if isinstance(found, str) or rank < 3 or not source.inputs:
            continue
        scale, shift = found
        if rules.why_no_kernel("Conv", rank, len(scale)) or node.outputs[0].name in graph_output_names(graph):
            continue
        weight = scale.astype(np.float32).reshape(-1, 1, *[1] * (rank - 2))
        constants = [
            gs.Constant(fresh_name(f"{node.name}.{role}", taken), values)
            for role, values in (("weight_1x1", weight), ("bias_1x1", shift.astype(np.float32)))
        ]
        attributes = {"kernel_shape": [1] * (rank - 2), "group": len(scale)}
        conv = gs.Node("Conv", node.name, attributes, inputs=[source, *constants])
        replace_node(graph, node, conv)
        notes.append(f"{node.name}: BatchNormalization made a depthwise Conv")
    return notes
