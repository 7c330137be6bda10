"""Give every layer its own weight and bias, so that a pass can change one layer without changing others."""

import numpy as np
import onnx_graphsurgeon as gs

from passes.ir.linear import LINEAR_OPS
from passes.ir.surgery import fresh_name, sole_consumer, tensor_names

__all__ = ["unshare_constants"]

_ROLES = ("weight", "weight", "bias")  # by index of the input; the constant of a MatMul may be its first


def unshare_constants(graph: gs.Graph) -> list[str]:
    """Copy constants that a layer shares with another node. The copies are called `<layer>.weight`, `<layer>.bias`.

    The last layer that reads a constant keeps the original, unless a node that is not a layer reads it. Nodes must have
    names.

    Returns:
        A line for each copy.
    """
    taken = tensor_names(graph)
    notes = []
    for node in graph.nodes:
        if node.op not in LINEAR_OPS:
            continue
        for index, tensor in enumerate(list(node.inputs)):
            if not isinstance(tensor, gs.Constant) or sole_consumer(graph, tensor) is node:
                continue
            name = fresh_name(f"{node.name}.{_ROLES[index]}", taken)
            node.inputs[index] = gs.Constant(name, np.array(tensor.values))
            notes.append(f"{node.name}: shared {_ROLES[index]} {tensor.name} copied to {name}")
    return notes
