"""Find the MaxPools that onnxruntime's CPU runs on integers with channels first, which is a hundred times slower.

Integer convolutions have channels last. onnxruntime moves the Transposes around them through other operators where that
removes some: towards a convolution, or where all operands have one. So a MaxPool has channels last behind a
convolution, or before one. Elsewhere it has channels first, and its kernel for that is made for floats.
"""

from collections.abc import Collection

import onnx_graphsurgeon as gs

__all__ = ["slow_pools"]

_JOINING = frozenset({"Add", "Mul", "Concat"})


def slow_pools(graph: gs.Graph, convolutions: Collection[str], operators: Collection[str]) -> frozenset[str]:
    """Return the names of these MaxPools.

    Args:
        graph: Topologically sorted.
        convolutions: Names of the convolutions on integers.
        operators: Other operators that may run on integers.
    """
    behind: set[str] = set()
    for node in graph.nodes:
        data = [tensor.name for tensor in node.inputs if isinstance(tensor, gs.Variable) and tensor.name]
        joins = node.op in _JOINING and len(set(data)) > 1
        if node.name in convolutions or (
            (joins or node.op in {"Relu", "Clip", "MaxPool"}) and data and behind.issuperset(data)
        ):
            behind.update(tensor.name for tensor in node.outputs)
    before: set[str] = set()
    for node in reversed(graph.nodes):
        if node.name in convolutions:
            before.add(node.inputs[0].name)
        elif node.op in operators and any(tensor.name in before for tensor in node.outputs):
            before.update(tensor.name for tensor in node.inputs)
    return frozenset(
        str(node.name)
        for node in graph.nodes
        if node.op == "MaxPool" and node.inputs[0].name not in behind and node.outputs[0].name not in before
    )
