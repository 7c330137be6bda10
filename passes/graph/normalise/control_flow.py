"""Replace an If whose condition is a constant with its branch. Older exporters write many of them around Squeeze."""

import onnx_graphsurgeon as gs

from passes.ir.surgery import fresh_name, tensor_names

__all__ = ["inline_constant_branches"]


def inline_constant_branches(graph: gs.Graph) -> list[str]:
    """Replace every If that has a constant condition with the branch that is taken.

    Returns:
        A line with the number of changes, or nothing.
    """
    nodes = [node for node in graph.nodes if node.op == "If" and isinstance(node.inputs[0], gs.Constant)]
    for node in nodes:
        _inline(graph, node)
    graph.toposort()
    return [f"{len(nodes)} If nodes with a constant condition replaced with the branch taken"] if nodes else []


def _inline(graph: gs.Graph, node: gs.Node) -> None:
    branch: gs.Graph = node.attrs["then_branch" if bool(node.inputs[0].values.reshape(-1)[0]) else "else_branch"]
    outer = graph.tensors()
    taken = tensor_names(graph)
    for tensor in {id(tensor): tensor for tensor in branch.tensors().values()}.values():
        foreign = tensor.name in outer and outer[tensor.name] is tensor
        if not foreign and tensor.name:
            tensor.name = fresh_name(tensor.name, taken)
    results = list(node.outputs)
    node.inputs.clear()
    node.outputs.clear()
    joints = [
        gs.Node("Identity", f"{node.name or 'If'}_{index}", inputs=[inner], outputs=[result])
        for index, (inner, result) in enumerate(zip(branch.outputs, results, strict=True))
    ]
    position = next(index for index, other in enumerate(graph.nodes) if other is node)
    graph.nodes[position : position + 1] = [*branch.nodes, *joints]
    for unused in node.attrs.values():
        if isinstance(unused, gs.Graph) and unused is not branch:
            for inner in list(unused.nodes):  # else they would still count as consumers of outer tensors
                inner.inputs.clear()
