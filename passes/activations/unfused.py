"""Keep a float pool next to integers in float, where onnxruntime would run an integer kernel instead.

- AveragePool between two quantized tensors: onnxruntime replaces it by QLinearAveragePool, whatever the attributes.
  That kernel has no dilations, and counts a window that reaches beyond the pads with `ceil_mode` as if it were whole.
- MaxPool from a float tensor to a quantized one: onnxruntime moves the QuantizeLinear in front of it. What is in front
  has channels first, and the integer MaxPool takes several times as long there as the float one (`channels_last`).

A Max with the lowest float changes no finite value. onnxruntime neither fuses it nor moves a QuantizeLinear through it,
so the QuantizeLinear stays behind the pool.
"""

from collections.abc import Collection

import numpy as np
import onnx_graphsurgeon as gs

from passes.ir.rules import Rules
from passes.ir.surgery import fresh_name, tensor_names

__all__ = ["keep_apart"]


def keep_apart(graph: gs.Graph, rules: Rules, grids: Collection[str], integer: Collection[str]) -> None:
    """Put a Max between these pools and the quantized tensors next to them, in place.

    Args:
        graph: Topologically sorted. It stays sorted.
        rules: What the target accepts.
        grids: Names of the tensors with a grid.
        integer: Names of the nodes that run on integers.
    """
    taken, names = tensor_names(graph), {str(node.name) for node in graph.nodes}
    lowest: gs.Constant | None = None
    for node in [node for node in graph.nodes if node.op in {"AveragePool", "MaxPool"} and node.name not in integer]:
        source, result = node.inputs[0], node.outputs[0]
        averages = node.op == "AveragePool"
        if result.name not in grids or (source.name in grids) != averages or not (averages or rules.channels_last):
            continue
        if lowest is None:
            lowest = gs.Constant(fresh_name("lowest_float", taken), np.array(np.finfo(np.float32).min, np.float32))
        position = next(index for index, other in enumerate(graph.nodes) if other is node)
        node.outputs[0] = gs.Variable(fresh_name(f"{result.name}_float", taken), result.dtype)
        after = fresh_name(f"{node.name}_kept_float", names)
        graph.nodes.insert(position + 1, gs.Node("Max", after, inputs=[node.outputs[0], lowest], outputs=[result]))
        if averages:
            node.inputs[0] = gs.Variable(fresh_name(f"{source.name}_float", taken), source.dtype)
            before = fresh_name(f"{node.name}_input_kept_float", names)
            graph.nodes.insert(position, gs.Node("Max", before, inputs=[source, lowest], outputs=[node.inputs[0]]))
