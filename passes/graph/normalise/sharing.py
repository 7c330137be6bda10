"""Give every layer its own weight and bias, except layers that read one weight as the same matrix: they share it."""

from collections.abc import Hashable

import onnx_graphsurgeon as gs

from passes.ir.large_constants import copied
from passes.ir.linear import LINEAR_OPS, find_linear, linear_layers, why_not_linear
from passes.ir.surgery import fresh_name, graph_output_names, share_biases, sole_consumer, tensor_names
from passes.ir.ties import tied_layers

__all__ = ["share_tied_biases", "unshare_constants"]

_ROLES = ("weight", "weight", "bias")  # by index of the input; the constant of a MatMul may be its first


def unshare_constants(graph: gs.Graph) -> list[str]:
    """Copy constants that a layer shares with another node. The copies are called `<layer>.weight`, `<layer>.bias`.

    Layers that read a weight as the same matrix keep sharing it, or share one copy. The last layer that reads a
    weight keeps the original, and so do those that share it, unless a node that is not a layer reads it, or it is a
    graph output. Nodes must have names.

    Returns:
        A line for each copy.
    """
    taken = tensor_names(graph)
    notes = []
    copies: dict[tuple[int, Hashable], gs.Constant] = {}
    keeping = {id(tensor): _last_view(graph, tensor) for tensor in _shared_weights(graph)}
    for node in graph.nodes:
        if node.op not in LINEAR_OPS:
            continue
        for index, tensor in enumerate(list(node.inputs)):
            if not isinstance(tensor, gs.Constant) or sole_consumer(graph, tensor) is node:
                continue
            view = _view(node) if index == 1 else None
            if (view is not None and keeping.get(id(tensor)) == view) or (index == 2 and _same_weight(graph, tensor)):
                continue
            key = id(tensor), view
            if view is None or key not in copies:
                name = fresh_name(f"{node.name}.{_ROLES[index]}", taken)
                copies[key] = copied(tensor, name)
            node.inputs[index] = copies[key]
            notes.append(f"{node.name}: shared {_ROLES[index]} {tensor.name} copied to {copies[key].name}")
    return notes


def _shared_weights(graph: gs.Graph) -> list[gs.Constant]:
    weights = [node.inputs[1] for node in graph.nodes if node.op in LINEAR_OPS and len(node.inputs) > 1]
    return [weight for weight in weights if isinstance(weight, gs.Constant) and len(weight.outputs) > 1]


def _last_view(graph: gs.Graph, weight: gs.Constant) -> Hashable:
    """Return how the last layer reads a weight, if only layers do. Those that read it so keep the original."""
    if weight.name in graph_output_names(graph):
        return None
    views = {id(reader): _view(reader, weight) for reader in weight.outputs}
    if None in views.values():
        return None
    return next(views[id(node)] for node in reversed(graph.nodes) if id(node) in views)


def share_tied_biases(graph: gs.Graph) -> None:
    """Let layers that share a weight share biases that are equal. The nodes have their final forms."""
    ties = set(tied_layers(linear_layers(graph).values()).values())
    nodes = {str(node.name): node for node in graph.nodes} if ties else {}
    for names in ties:
        share_biases([nodes[name] for name in names])


def _same_weight(graph: gs.Graph, bias: gs.Constant) -> bool:
    """Return whether only layers that share one weight read a bias."""
    if bias.name in graph_output_names(graph):
        return False
    first = bias.outputs[0]
    weight = first.inputs[1]
    views = {_view(reader, weight) for reader in bias.outputs}
    return len(views) == 1 and None not in views and all(reader.inputs[1] is weight for reader in bias.outputs)


def _view(node: gs.Node, weight: gs.Constant | None = None) -> Hashable:
    """How a layer reads its weight. None if the node is no layer, or reads ``weight`` as anything else."""
    if node.op not in LINEAR_OPS or why_not_linear(node) is not None:
        return None
    if weight is not None and [tensor is weight for tensor in node.inputs].count(True) != 1:
        return None
    if weight is not None and node.inputs[1] is not weight:
        return None
    return find_linear(node).view
