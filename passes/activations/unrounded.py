"""Readers of floats get the floats: only what runs on integers reads a tensor rounded to 8 bits.

A tensor that an integer kernel writes exists rounded only. An input of the graph, or the result of a float operator,
exists in full. Where floats or an output of the graph need such a tensor too, the integer kernels get a copy of it: an
Identity, whose output has the grid. The writer quantizes the tensor itself and drops the Identity.
"""

from collections.abc import Collection, Mapping

import onnx_graphsurgeon as gs

from passes.ir.surgery import fresh_name, replace_input, tensor_names
from passes.numerics.grid import ActivationGrid

__all__ = ["float_readers", "split_readers"]

_READ_NO_VALUES = frozenset({"Shape", "Size"})


def float_readers(graph: gs.Graph, grids: Collection[str], integer: Collection[str]) -> dict[str, list[gs.Node]]:
    """Find the tensors with a grid that also exist as floats, and their readers that do not run on integers.

    Args:
        graph: The graph.
        grids: Names of the tensors with a grid.
        integer: Names of the nodes that run on integers.

    Returns:
        The readers in float of every such tensor that floats or an output of the graph need, and integers too. A reader
        that reads only the shape does not count.
    """
    outputs = {str(tensor.name) for tensor in graph.outputs}
    rounded = {str(tensor.name) for node in graph.nodes if node.name in integer for tensor in node.outputs}
    readers: dict[str, list[gs.Node]] = {}
    for node in graph.nodes:
        for name in dict.fromkeys(str(tensor.name) for tensor in node.inputs if isinstance(tensor, gs.Variable)):
            if name in grids and name not in rounded:
                readers.setdefault(name, []).append(node)
    found = {}
    for name, nodes in readers.items():
        floats = [node for node in nodes if node.name not in integer and node.op not in _READ_NO_VALUES]
        if (floats or name in outputs) and any(node.name in integer for node in nodes):
            found[name] = floats
    return found


def split_readers(
    graph: gs.Graph,
    grids: Mapping[str, ActivationGrid],
    integer: Collection[str],
    tensors: Collection[str] | None = None,
) -> dict[str, ActivationGrid]:
    """Give the integer readers of the tensors in `float_readers` a copy, in place.

    Args:
        graph: Topologically sorted. It stays sorted.
        grids: Grids of all quantized tensors.
        integer: Names of the nodes that run on integers.
        tensors: The tensors to give a copy of. The default is all that `float_readers` finds.

    Returns:
        The grids by the tensors that have them now. The order is the same.
    """
    taken, node_names = tensor_names(graph), {str(node.name) for node in graph.nodes}
    renamed: dict[str, str] = {}
    for name in float_readers(graph, grids if tensors is None else tensors, integer):
        tensor = graph.tensors()[name]
        copy = gs.Variable(fresh_name(f"{name}_rounded", taken), tensor.dtype, tensor.shape)
        readers = [node for node in tensor.outputs if node.name in integer]
        for node in {id(node): node for node in readers}.values():
            replace_input(node, tensor, copy)
        identity = gs.Node("Identity", fresh_name(copy.name, node_names), inputs=[tensor], outputs=[copy])
        first = min(index for index, node in enumerate(graph.nodes) if any(node is reader for reader in readers))
        graph.nodes.insert(first, identity)
        renamed[name] = str(copy.name)
    return {renamed.get(name, name): grid for name, grid in grids.items()}
