"""Bits of activations by layer: some nodes read and write 16 bits, and others 8.

An integer kernel reads and writes codes of one width. A tensor has the width of the node that writes it; an input of
the graph, or the result of a float operator, has 16 bits if any node of 16 bits reads it. Where a node of the other
width reads a tensor, it gets a copy on a grid of its own width: an Identity in the graph, and in the file a
QuantizeLinear behind the DequantizeLinear. The copy of an 8-bit tensor has 16-bit codes that are 256 times those of the
tensor, so it loses nothing.
"""

from collections.abc import Collection, Mapping

import onnx_graphsurgeon as gs

from passes.activations.placement import Placement
from passes.ir.model import Model
from passes.ir.surgery import fresh_name, replace_input, tensor_names
from passes.numerics.grid import ActivationGrid

__all__ = ["convert_widths", "silu_sigmoids", "widths"]


def widths(graph: gs.Graph, placement: Placement, wide: Collection[str], bits: int) -> dict[str, int]:
    """Return the bits of every tensor that has a grid of its own.

    Args:
        graph: The graph.
        placement: Its quantized tensors.
        wide: Names of the nodes of 16 bits.
        bits: Bits of the other nodes on integers.
    """
    sources = dict.fromkeys(placement.tensors.values(), bits)
    if bits == 16 or not wide:
        return sources
    tensors = graph.tensors()
    for tensor, source in placement.tensors.items():
        writers = [node for node in _writers(tensors[source], placement) if node.name in placement.integer]
        deciding = writers or [node for node in tensors[tensor].outputs if node.name in placement.integer]
        if any(node.name in wide for node in deciding):
            sources[source] = 16
    return sources


def _writers(tensor: gs.Tensor, placement: Placement) -> list[gs.Node]:
    """Return the node that writes a tensor, and the one in front of it if it is a clamp that the quantizer absorbs."""
    nodes = list(tensor.inputs)
    return nodes + [writer for clamp in nodes if tensor.name in placement.bounds for writer in clamp.inputs[0].inputs]


def convert_widths(
    model: Model, placement: Placement, wide: Collection[str], narrow: Mapping[str, ActivationGrid]
) -> frozenset[str]:
    """Give nodes copies, of their own width, of the tensors of another width that they read, with their grids.

    Args:
        model: The model with the grids of all quantized tensors. Its graph stays sorted.
        placement: Its quantized tensors.
        wide: Names of the nodes of 16 bits. Others have 8.
        narrow: The 8-bit grids of the tensors of 16 bits.

    Returns:
        The names of the Identities that make the copies.
    """
    graph, grids = model.graph, dict(model.activation_qparams)
    copies: dict[str, gs.Node] = {}
    taken, names = tensor_names(graph), {str(node.name) for node in graph.nodes}
    for node in list(graph.nodes):
        if node.name not in placement.integer or _shares_its_grid(node, placement):
            continue
        bits = 16 if node.name in wide else 8
        for tensor in list(node.inputs):
            grid = grids.get(tensor.name)
            if grid is None or grid.bits == bits:
                continue
            if tensor.name not in copies:
                copy = gs.Variable(fresh_name(f"{tensor.name}_{bits}bit", taken), tensor.dtype, tensor.shape)
                identity = gs.Node("Identity", fresh_name(copy.name, names), inputs=[tensor], outputs=[copy])
                graph.nodes.insert(next(at for at, other in enumerate(graph.nodes) if other is node), identity)
                copies[tensor.name] = identity
                copied = grid.widened() if bits == 16 else narrow[str(tensor.name)]
                model.activation_qparams[str(copy.name)] = copied
            replace_input(node, tensor, copies[tensor.name].outputs[0])
    return frozenset(str(node.name) for node in copies.values())


def _shares_its_grid(node: gs.Node, placement: Placement) -> bool:
    """Whether a node moves codes, so that it has the width of its input, or is a clamp that a quantizer absorbs."""
    names = [str(tensor.name) for tensor in node.outputs]
    return any(name in placement.bounds or placement.tensors.get(name, name) != name for name in names)


def silu_sigmoids(graph: gs.Graph) -> frozenset[str]:
    """Return the names of the Sigmoids whose result is multiplied by what they read."""
    return frozenset(
        str(node.name)
        for node in graph.nodes
        if node.op == "Sigmoid"
        for reader in node.outputs[0].outputs
        if reader.op == "Mul" and any(tensor is node.inputs[0] for tensor in reader.inputs)
    )
