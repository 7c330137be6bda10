"""Whether sums of 8-bit products saturate on this processor, and in which files that cannot be turned off.

x86 without VNNI adds two products of uint8 and int8 in 16 bits. onnxruntime's optimizer can take exact kernels instead
(`converter.runtime.session.exact_kernels`). It does not where the file itself has an integer operator and nothing is
optimized, and not in the branches of an If and the bodies of loops.
"""

import functools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from converter.model_io.protobuf import graphs
from converter.runtime.session import open_session

__all__ = ["has_integer_operators", "quantizes_in_bodies", "sums_saturate"]

_OPERATORS = frozenset({"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"})
_PRODUCTS = 16  # of the probe; kernels add four at a time


@functools.lru_cache(maxsize=1)
def sums_saturate() -> bool:
    """Whether this processor's 8-bit kernels saturate: the largest products of a MatMulInteger are summed."""
    weight = np.full((_PRODUCTS, 8), 127, np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, _PRODUCTS])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, 8])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    found = open_session(model, threads=1, optimize=False).run(None, {"x": np.full((1, _PRODUCTS), 255, np.uint8)})[0]
    return bool((found != _PRODUCTS * 255 * 127).any())


def has_integer_operators(model: onnx.ModelProto) -> bool:
    """Whether a file multiplies integers without the optimizer's help."""
    return any(node.op_type in _OPERATORS for graph in graphs(model.graph) for node in graph.node)


def quantizes_in_bodies(model: onnx.ModelProto) -> bool:
    """Whether there are quantized tensors in the branches of an If or the bodies of loops."""
    _, *bodies = graphs(model.graph)
    return any(node.op_type == "QuantizeLinear" for body in bodies for node in body.node)
