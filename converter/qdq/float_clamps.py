"""A Relu or Clip that reads the float result of a layer on integers, as Max and Min.

onnxruntime fuses a Gemm or MatMul with the Relu or Clip behind it, in float, and then dequantizes the weight on every
run. It does not fuse Max and Min, which compute the same: Clip(x, low, high) = Min(Max(x, low), high).
"""

import numpy as np
from onnx import NodeProto

from converter.qdq.fragment import Fragment, Names
from passes.ir.model import Model

__all__ = ["clamps_of_floats", "max_and_min"]

_CLAMPS = frozenset({"Relu", "Clip"})


def clamps_of_floats(model: Model) -> frozenset[str]:
    """Return the names of these Relu and Clip nodes."""
    floats = {
        layer.output
        for name, layer in model.layers().items()
        if layer.op in model.rules.float_outputs and name in model.quantized and model.reads_integers(layer)
    } - set(model.activation_qparams)
    return frozenset(
        str(node.name)
        for node in model.graph.nodes
        if node.op in _CLAMPS and node.inputs[0].name in floats and node.outputs[0].name not in model.activation_qparams
    )


def max_and_min(node: NodeProto, names: Names) -> Fragment:
    """The nodes that replace a Relu or Clip. The last of them writes the output of the node.

    Args:
        node: A Relu, or a Clip with its bounds as inputs.
        names: Names of the graph.
    """
    fragment = Fragment(names)
    source, low, high = (*node.input, "", "")[:3]
    if node.op_type == "Relu":
        low = fragment.shared("zero", np.zeros((), np.float32))
    steps = [(op, bound) for op, bound in (("Max", low), ("Min", high)) if bound]
    if not steps:
        fragment.node_into("Identity", node.name, [source], node.output[0])
    for index, (op, bound) in enumerate(steps):
        if index == len(steps) - 1:
            fragment.node_into(op, f"{node.name}.{op}", [source, bound], node.output[0])
        else:
            source = fragment.node(op, f"{node.name}.{op}", [source, bound], f"{node.output[0]}_{op}")
    return fragment
