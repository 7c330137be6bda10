"""Constants that an Add adds to the result of a MatMul on integers, with as many axes as that result.

onnxruntime (its MatMulAddFusion) makes a float Gemm of a MatMul of known shapes and an Add of a constant of one or two
axes. It does so before it looks for integer operators, and then dequantizes the weight on every run. It leaves
constants of three or more axes alone.
"""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.normalise.shapes import infer_shapes
from passes.ir.model import Model

__all__ = ["AddedBias", "added_biases"]

_FUSED_RANK = 2


@dataclass(frozen=True)
class AddedBias:
    """A constant operand of an Add.

    Attributes:
        name: Name of the constant.
        shape: Its shape with ones in front, so that its rank is that of the Add's result.
    """

    name: str
    shape: tuple[int, ...]


def added_biases(model: Model) -> dict[str, AddedBias]:
    """Return the constants to store with more axes, by the name of the Add.

    Raises:
        ModelError: The shapes of the graph contradict each other.
    """
    found: dict[str, tuple[str, gs.Constant]] = {}
    products = {
        layer.output
        for name, layer in model.layers().items()
        if layer.op == "MatMul" and name in model.quantized and model.reads_integers(layer)
    }
    for node in model.graph.nodes if products else ():
        if node.op != "Add" or len(node.inputs) != 2:
            continue
        for product, constant in (node.inputs, node.inputs[::-1]):
            direct = product.name in products and product.name not in model.activation_qparams
            if direct and isinstance(constant, gs.Constant) and len(constant.shape) <= _FUSED_RANK:
                found[str(node.name)] = str(product.name), constant
    if not found:
        return {}
    shapes = infer_shapes(model.graph)
    biases = {}
    for name, (product, constant) in found.items():
        missing = len(shapes.get(product, ())) - len(constant.shape)
        if len(constant.shape) + missing > _FUSED_RANK:
            shape = (*[1] * missing, *np.shape(constant.values))
            biases[name] = AddedBias(str(constant.name), tuple(int(size) for size in shape))
    return biases
