"""Keep onnxruntime from fusing a float operator between integers to an integer kernel that computes something else.

onnxruntime replaces DequantizeLinear -> AveragePool -> QuantizeLinear by QLinearAveragePool, whatever the attributes.
That kernel has no dilations, and counts a window that reaches beyond the pads with `ceil_mode` as if it were whole.
The mean of negated values is the negated mean, exactly, and a Neg on both sides is nothing that onnxruntime fuses.
"""

from collections.abc import Collection

import onnx_graphsurgeon as gs

from passes.ir.surgery import fresh_name, tensor_names

__all__ = ["keep_apart"]


def keep_apart(graph: gs.Graph, grids: Collection[str], integer: Collection[str]) -> None:
    """Put a Neg before and behind every AveragePool that runs in float between quantized tensors, in place.

    Args:
        graph: Topologically sorted. It stays sorted.
        grids: Names of the tensors with a grid.
        integer: Names of the nodes that run on integers.
    """
    taken, names = tensor_names(graph), {str(node.name) for node in graph.nodes}
    for node in [node for node in graph.nodes if node.op == "AveragePool" and node.name not in integer]:
        source, result = node.inputs[0], node.outputs[0]
        if source.name not in grids or result.name not in grids:
            continue
        position = next(index for index, other in enumerate(graph.nodes) if other is node)
        before, after = (
            gs.Variable(fresh_name(f"{tensor.name}_negative", taken), tensor.dtype) for tensor in (source, result)
        )
        node.inputs[0], node.outputs[0] = before, after
        turn = gs.Node("Neg", fresh_name(f"{node.name}_before", names), inputs=[source], outputs=[before])
        back = gs.Node("Neg", fresh_name(f"{node.name}_after", names), inputs=[after], outputs=[result])
        graph.nodes[position : position + 1] = [turn, node, back]
