"""Integer forms of HardSigmoid and HardSwish (Howard et al. 2019, arXiv:1905.02244, §5.2).

    HardSigmoid(x) = Clip(alpha x + beta, 0, 1)         HardSwish(x) = x HardSigmoid(x; 1/6, 1/2)

The product with alpha only changes the scale, and the quantizer's range does the Clip. So the integer kernels compute
one addition, and for HardSwish one product.
"""

from collections.abc import Container

import numpy as np
import onnx_graphsurgeon as gs

from passes.ir.rules import Rules
from passes.ir.surgery import fresh_name, is_default_domain, replace_node, tensor_names

__all__ = ["HARD_FUNCTIONS", "hard_functions_as_clips", "has_integer_form"]


HARD_FUNCTIONS = frozenset({"HardSigmoid", "HardSwish"})


def has_integer_form(rules: Rules) -> bool:
    """Return whether the target has the kernels of the integer forms."""
    return rules.scalars and {"Add", "Mul"} <= rules.compute and "Clip" in rules.absorbable


def hard_functions_as_clips(graph: gs.Graph, rules: Rules, integer: Container[str]) -> list[str]:
    """Rewrite HardSigmoid and HardSwish nodes for which the target has no kernel.

    Args:
        graph: The graph.
        rules: Rules of the target.
        integer: Names of the nodes that stand between integers. The others stay, as they are faster in float.

    Returns:
        A line for each.
    """
    if not has_integer_form(rules):
        return []
    notes = []
    tensors, names = tensor_names(graph), {node.name for node in graph.nodes}
    for node in list(graph.nodes):
        if (
            node.name not in integer
            or node.op not in HARD_FUNCTIONS
            or not is_default_domain(node)
            or node.op in rules.compute
        ):
            continue
        source, name = node.inputs[0], node.name
        swish = node.op == "HardSwish"
        alpha, beta = (1 / 6, 0.5) if swish else (node.attrs.get("alpha", 0.2), node.attrs.get("beta", 0.5))
        if alpha <= 0:
            continue

        def constant(role: str, value: float, name: str = name) -> gs.Constant:
            return gs.Constant(fresh_name(f"{name}.{role}", tensors), np.asarray(value, np.float32))

        def step(op: str, role: str, *inputs: gs.Tensor, name: str = name) -> gs.Node:
            result = gs.Variable(fresh_name(f"{name}_{role}", tensors), np.float32)
            return gs.Node(op, fresh_name(f"{name}.{role}", names), inputs=list(inputs), outputs=[result])

        scaled = step("Mul", "scaled", source, constant("alpha", alpha))
        shifted = step("Add", "shifted", scaled.outputs[0], constant("beta", beta))
        clipped = step("Clip", "clipped", shifted.outputs[0], constant("low", 0.0), constant("high", 1.0))
        nodes = [scaled, shifted, clipped]
        if swish:
            nodes.append(gs.Node("Mul", name, inputs=[source, clipped.outputs[0]]))
        else:
            clipped.outputs, clipped.name = [], name
        replace_node(graph, node, *nodes)
        notes.append(f"{name}: {node.op} replaced by Mul, Add and Clip" + (" and Mul" if swish else ""))
    return notes
