"""Replace an If whose condition is a constant with its branch. Older exporters write many of them around Squeeze."""

import onnx
import onnx_graphsurgeon as gs

from passes.ir.bodies import CAPTURED
from passes.ir.onnx_graph import import_graph
from passes.ir.surgery import fresh_name, replace_input, tensor_names

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
    return [f"{len(nodes)} If nodes with a constant condition replaced by their branch"] if nodes else []


def _inline(graph: gs.Graph, node: gs.Node) -> None:
    names = node.attrs.get(CAPTURED, [])
    outside = dict(zip(names, node.inputs[len(node.inputs) - len(names) :], strict=True))
    taken_branch = node.attrs["then_branch" if bool(node.inputs[0].values.reshape(-1)[0]) else "else_branch"]
    branch = _imported(graph, taken_branch, outside)
    taken = tensor_names(graph)
    tensors = [tensor for inner in branch.nodes for tensor in [*inner.inputs, *inner.outputs]]
    for tensor in {id(tensor): tensor for tensor in [*tensors, *branch.outputs]}.values():
        if tensor.name in outside:
            for reader in list(tensor.outputs):
                replace_input(reader, tensor, outside[tensor.name])
        elif tensor.name:
            tensor.name = fresh_name(tensor.name, taken)
    results = list(node.outputs)
    node.inputs.clear()
    node.outputs.clear()
    joints = [
        gs.Node("Identity", f"{node.name or 'If'}_{index}", inputs=[outside.get(inner.name, inner)], outputs=[result])
        for index, (inner, result) in enumerate(zip(branch.outputs, results, strict=True))
    ]
    position = next(index for index, other in enumerate(graph.nodes) if other is node)
    graph.nodes[position : position + 1] = [*branch.nodes, *joints]


def _imported(graph: gs.Graph, branch: onnx.GraphProto, outside: dict[str, gs.Tensor]) -> gs.Graph:
    """Import a branch as a graph of its own. The outer tensors that it reads are its inputs."""
    model = onnx.helper.make_model(onnx.GraphProto(), opset_imports=graph.import_domains)
    model.graph.CopyFrom(branch)
    model.graph.input.extend(onnx.helper.make_empty_tensor_value_info(name) for name in outside)
    return import_graph(model)
