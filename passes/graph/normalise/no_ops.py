"""Remove nodes whose output is their input: Identity, a Sum of one operand, and Dropout at inference."""

from collections.abc import Set

import onnx_graphsurgeon as gs

from passes.ir.surgery import bypass, graph_output_names, is_default_domain

__all__ = ["remove_no_ops"]


def remove_no_ops(graph: gs.Graph, copies: Set[str] = frozenset()) -> list[str]:
    """Remove nodes whose output is their input.

    A node stays if a graph output needs its name, or if its dropout mask is read.

    Args:
        graph: The graph.
        copies: Names of results that stay.

    Returns:
        A line with the number of removed nodes for each operator.
    """
    outputs = graph_output_names(graph)
    counts: dict[str, int] = {}
    for node in list(graph.nodes):
        if node.op not in ("Identity", "Dropout", "Sum") or not is_default_domain(node):
            continue
        if node.op == "Sum" and len(node.inputs) > 1:
            continue
        if node.outputs[0].name in copies:
            continue
        mask_used = any(mask.outputs or mask.name in outputs for mask in node.outputs[1:])
        if not mask_used and bypass(graph, node):
            counts[node.op] = counts.get(node.op, 0) + 1
    return [f"{count} {op} nodes removed" for op, count in counts.items()]
