"""Replace a BatchNormalization that could not be folded, as behind a Concat, with a depthwise 1x1 convolution.

y = a x + c per channel, with a = gamma / sqrt(var + epsilon) and c = beta - a mean. With one weight per channel, every
weight is exactly on its channel's grid for any number of bits. So the only error is the rounding of y.
"""

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.fold_batchnorm import affine
from passes.graph.normalise.shapes import Shapes
from passes.ir.rules import Rules
from passes.ir.surgery import fresh_name, graph_output_names, is_default_domain, replace_node, tensor_names

__all__ = ["norms_as_convolutions"]


def norms_as_convolutions(graph: gs.Graph, rules: Rules, shapes: Shapes) -> list[str]:
    """Rewrite every BatchNormalization of float32 that does not read a graph input or write a graph output.

    Returns:
        A line for each.
    """
    notes = []
    taken = tensor_names(graph)
    for node in list(graph.nodes):
        if node.op != "BatchNormalization" or not is_default_domain(node) or len(node.outputs) != 1:
            continue
        source = node.inputs[0]
        rank, coefficients = len(shapes.get(source.name, ())), affine(node)
        if isinstance(coefficients, str) or rank < 3 or not source.inputs or node.inputs[1].dtype != np.float32:
            continue
        scale, shift = coefficients
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
        notes.append(f"{node.name}: BatchNormalization replaced by a depthwise Conv")
    return notes
