"""Give fully connected layers one form: Gemm(A, B, C) = A B + C with alpha = beta = 1."""

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.normalise.shapes import Shapes
from passes.ir.surgery import is_default_domain, remove_node, set_constant, sole_consumer

__all__ = ["absorb_alpha_beta", "matmul_to_gemm"]


def absorb_alpha_beta(graph: gs.Graph) -> list[str]:
    """Multiply alpha into a constant weight and beta into a constant bias, and give the bias the shape [o].

    If the weight or the bias of a Gemm is computed, its factor stays.

    Returns:
        A line for each change.
    """
    notes = []
    for node in graph.nodes:
        if node.op != "Gemm" or not is_default_domain(node):
            continue
        alpha, beta = np.float64(node.attrs.get("alpha", 1.0)), np.float64(node.attrs.get("beta", 1.0))
        weight = node.inputs[1]
        bias = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
        if isinstance(weight, gs.Constant) and weight.dtype == np.float32:
            if alpha != 1.0:
                set_constant(graph, node, 1, (alpha * weight.values).astype(np.float32), f"{node.name}.weight")
                notes.append(f"{node.name}: alpha = {alpha:g} multiplied into the weight")
            node.attrs.pop("alpha", None)
        if bias is None:
            node.attrs.pop("beta", None)
        elif isinstance(bias, gs.Constant) and bias.dtype == np.float32:
            if beta != 1.0:
                notes.append(f"{node.name}: beta = {beta:g} multiplied into the bias")
            values = (beta * bias.values).astype(np.float32)
            values = _vector(values, node) if isinstance(weight, gs.Constant) else values
            if beta != 1.0 or values.shape != tuple(bias.shape):
                set_constant(graph, node, 2, values, f"{node.name}.bias")
            node.attrs.pop("beta", None)
    return notes


def _vector(bias: np.ndarray, node: gs.Node) -> np.ndarray:
    """Give a bias that is the same for every row the shape [o]. Another bias is returned unchanged."""
    shape = tuple(node.inputs[1].shape)
    outputs = shape[0] if node.attrs.get("transB", 0) else shape[1]
    per_row = bias.ndim == 2 and bias.shape[0] != 1
    return bias if per_row else np.array(np.broadcast_to(bias.reshape(-1), (outputs,)))


def matmul_to_gemm(graph: gs.Graph, shapes: Shapes) -> list[str]:
    """Replace MatMul of a matrix [n, i] and a constant [i, o], and an Add of a constant [o] behind it, with Gemm.

    Returns:
        A line for each.
    """
    if graph.opset < 11:  # Gemm needs C before opset 11
        return []
    notes = []
    for node in list(graph.nodes):
        if node.op != "MatMul" or not is_default_domain(node):
            continue
        rows, weight = node.inputs
        if isinstance(rows, gs.Constant) or not isinstance(weight, gs.Constant) or weight.dtype != np.float32:
            continue
        if len(shapes.get(rows.name, ())) != 2 or len(weight.shape) != 2:
            continue
        node.op, node.attrs = "Gemm", {}
        bias = _added_vector(graph, node, int(weight.shape[1]))
        if bias is None:
            notes.append(f"{node.name}: MatMul replaced by Gemm")
            continue
        add, values = bias
        result = add.outputs[0]
        remove_node(graph, add)
        node.outputs = [result]
        name = values.name
        if values.outputs or tuple(values.shape) != (int(weight.shape[1]),):
            name = f"{node.name}.bias"
        spread = np.array(np.broadcast_to(values.values.reshape(-1), (int(weight.shape[1]),)))
        set_constant(graph, node, 2, spread, name)
        notes.append(f"{node.name}: MatMul and Add replaced by Gemm")
    return notes


def _added_vector(graph: gs.Graph, node: gs.Node, outputs: int) -> tuple[gs.Node, gs.Constant] | None:
    """Return the Add behind `node` and its constant if it adds a bias [o] (or [1]), else None."""
    add = sole_consumer(graph, node.outputs[0])
    if add is None or add.op != "Add":
        return None
    other = add.inputs[1] if add.inputs[0] is node.outputs[0] else add.inputs[0]
    fits = isinstance(other, gs.Constant) and other.dtype == np.float32 and tuple(other.shape) in ((outputs,), (1,), ())
    return (add, other) if fits else None
