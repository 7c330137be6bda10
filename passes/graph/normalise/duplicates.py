"""Merge nodes that compute the same: the common subexpressions of a graph.

An exporter may write a node once for each of its readers. onnxruntime merges such nodes in a float file, but not behind
a QuantizeLinear and a DequantizeLinear of each.
"""

from collections.abc import Hashable

import numpy as np
import onnx_graphsurgeon as gs

from passes.ir.onnx_graph import node_bodies
from passes.ir.surgery import graph_output_names, is_default_domain, remove_node, replace_input

__all__ = ["merge_duplicates"]

_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"}
)


def merge_duplicates(graph: gs.Graph) -> list[str]:
    """Merge nodes of ONNX's own operators with equal attributes and inputs. Constants are equal if their values are.

    A node that writes a graph output stays, since the output needs its name. Then the other is merged with it. Nodes
    with random results and nodes with subgraphs stay too. The graph must be topologically sorted, and is sorted after.

    Returns:
        A line with the number of removed nodes for each operator.
    """
    outputs = graph_output_names(graph)
    alike: dict[Hashable, list[gs.Node]] = {}
    counts: dict[str, int] = {}
    for node in list(graph.nodes):
        key = _key(node)
        if key is None:
            continue
        for other in alike.setdefault(key, []):
            if not _equal_constants(node, other):
                continue
            kept, removed = (node, other) if _writes(node, outputs) else (other, node)
            if _writes(removed, outputs):
                continue
            if kept is node:
                alike[key][alike[key].index(other)] = node
            _redirect(removed, kept)
            remove_node(graph, removed)
            counts[removed.op] = counts.get(removed.op, 0) + 1
            break
        else:
            alike[key].append(node)
    if counts:
        graph.toposort()
    return [f"{count} {op} nodes merged with equal ones" for op, count in counts.items()]


def _key(node: gs.Node) -> Hashable | None:
    """What equal nodes have in common, apart from the values of constants. None for a node that is never merged."""
    if node.op in _RANDOM or not is_default_domain(node) or not node.inputs:
        return None
    if any(True for _ in node_bodies(node)):  # something inside may be random
        return None
    attributes = tuple(sorted((name, _attribute(value)) for name, value in node.attrs.items()))
    inputs = tuple(_signature(tensor) for tensor in node.inputs)
    written = tuple(bool(tensor.name) for tensor in node.outputs)
    return node.op, attributes, inputs, written


def _attribute(value: object) -> str:
    if isinstance(value, gs.Tensor):
        values = np.asarray(value.values)
        return f"{values.dtype} {values.shape} {values.tobytes().hex()}"
    return repr(value)


def _signature(tensor: gs.Tensor) -> tuple[str, ...]:
    if isinstance(tensor, gs.Constant):
        return str(tensor.dtype), str(tuple(tensor.shape))
    return (str(tensor.name),)


def _equal_constants(node: gs.Node, other: gs.Node) -> bool:
    pairs = zip(node.inputs, other.inputs, strict=True)
    return all(
        one is two or np.asarray(one.values).tobytes() == np.asarray(two.values).tobytes()
        for one, two in pairs
        if isinstance(one, gs.Constant)
    )


def _writes(node: gs.Node, outputs: set[str]) -> bool:
    return any(tensor.name in outputs for tensor in node.outputs)


def _redirect(removed: gs.Node, kept: gs.Node) -> None:
    """Let all readers of a node read another node's outputs."""
    for old, new in zip(removed.outputs, kept.outputs, strict=True):
        for reader in list(old.outputs):
            replace_input(reader, old, new)
