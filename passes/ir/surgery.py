"""Edits of an onnx-graphsurgeon graph.

graphsurgeon compares tensors by name and nodes by content. So the functions here compare by identity. They replace
constants and never write into their arrays, because copies of a graph share them.
"""

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from passes.ir.bodies import names_inside
from passes.ir.fresh_name import fresh_name
from passes.ir.onnx_graph import node_bodies

__all__ = [
    "bypass",
    "fresh_name",
    "graph_output_names",
    "is_default_domain",
    "remove_node",
    "replace_input",
    "replace_node",
    "set_constant",
    "share_biases",
    "sole_consumer",
    "tensor_names",
]


def tensor_names(graph: gs.Graph) -> set[str]:
    """Return the names of all tensors, also of unused graph inputs and outputs, and of tensors inside of bodies."""
    own = {*graph.tensors(), *(tensor.name for tensor in [*graph.inputs, *graph.outputs])}
    return own | names_inside(body for node in graph.nodes for body in node_bodies(node))


def graph_output_names(graph: gs.Graph) -> set[str]:
    """Return the names of the graph's outputs."""
    return {tensor.name for tensor in graph.outputs}


def is_default_domain(node: gs.Node) -> bool:
    """Return whether the node is one of ONNX's own operators."""
    return node.domain in (None, "", "ai.onnx")


def sole_consumer(graph: gs.Graph, tensor: gs.Tensor) -> gs.Node | None:
    """Return the only node that reads `tensor`, or None if no or several nodes do, or if it is a graph output."""
    if len(tensor.outputs) != 1 or tensor.name in graph_output_names(graph):
        return None
    return tensor.outputs[0]


def remove_node(graph: gs.Graph, node: gs.Node) -> None:
    """Disconnect `node` and remove it from the graph."""
    node.inputs.clear()
    node.outputs.clear()
    del graph.nodes[next(index for index, other in enumerate(graph.nodes) if other is node)]


def replace_node(graph: gs.Graph, node: gs.Node, *replacements: gs.Node) -> None:
    """Replace `node` with `replacements`.

    They are already connected, except for the output of the last one, which gets the output of `node`.
    """
    output = node.outputs[0]
    index = next(index for index, other in enumerate(graph.nodes) if other is node)
    node.inputs.clear()
    node.outputs.clear()
    graph.nodes[index : index + 1] = list(replacements)
    replacements[-1].outputs = [output]


def replace_input(node: gs.Node, old: gs.Tensor, new: gs.Tensor) -> None:
    """Replace `old` with `new` in the inputs of `node`."""
    for index, tensor in enumerate(list(node.inputs)):
        if tensor is old:
            node.inputs[index] = new


def set_constant(graph: gs.Graph, node: gs.Node, index: int, values: NDArray[np.generic], name: str) -> None:
    """Give `node` its own constant at input `index` (0..2). Omitted inputs before it are filled in.

    A constant that no other node reads keeps its name and gets `values`. Otherwise a new one called `name` is made.
    """
    while len(node.inputs) < index:
        node.inputs.append(gs.Variable.empty())
    old = node.inputs[index] if len(node.inputs) > index else None
    if isinstance(old, gs.Constant) and sole_consumer(graph, old) is node:
        old.values = values
        return
    constant = gs.Constant(fresh_name(name, tensor_names(graph)), values)
    if old is None:
        node.inputs.append(constant)
    else:
        node.inputs[index] = constant


def share_biases(nodes: Sequence[gs.Node]) -> None:
    """Let nodes whose biases (input 2) are equal read one constant, the first of them. No other node may read it."""
    members = {id(node) for node in nodes}
    firsts: dict[tuple[tuple[int, ...], bytes], gs.Constant] = {}
    for node in nodes:
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if not isinstance(bias, gs.Constant) or any(id(reader) not in members for reader in bias.outputs):
            continue
        values = np.ascontiguousarray(bias.values)
        first = firsts.setdefault((values.shape, values.tobytes()), bias)
        if first is not bias:
            node.inputs[2] = first


def bypass(graph: gs.Graph, node: gs.Node) -> bool:
    """Remove a node whose first output equals its first input.

    The node has to stay if it connects a graph input, a constant or another graph output directly to a graph output.

    Returns:
        Whether the node was removed.
    """
    source, output = node.inputs[0], node.outputs[0]
    outputs = graph_output_names(graph)
    if output.name not in outputs:
        for consumer in list(output.outputs):
            replace_input(consumer, output, source)
        remove_node(graph, node)
        return True
    if not source.inputs or source.name in outputs:
        return False
    producer = source.inputs[0]
    position = next(index for index, tensor in enumerate(producer.outputs) if tensor is source)
    remove_node(graph, node)
    for consumer in list(source.outputs):
        replace_input(consumer, source, output)
    producer.outputs[position] = output
    return True
