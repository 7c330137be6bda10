"""Sparse constants as dense ones, since onnx's shape inference and the graph of the passes have no sparse tensors."""

from collections.abc import Iterable

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, SparseTensorProto, TensorProto, numpy_helper

__all__ = ["make_dense", "make_initializers_dense"]


def make_initializers_dense(graph: GraphProto) -> None:
    """Turn the sparse initializers of a graph into initializers, in place."""
    graph.initializer.extend(_dense(tensor, tensor.values.name) for tensor in graph.sparse_initializer)
    del graph.sparse_initializer[:]


def make_dense(nodes: Iterable[NodeProto]) -> None:
    """Turn the sparse value of Constant nodes into a value, in place."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.SPARSE_TENSOR and node.op_type == "Constant":
                tensor = _dense(attribute.sparse_tensor, "")
                attribute.Clear()
                attribute.name, attribute.type = "value", AttributeProto.TENSOR
                attribute.t.CopyFrom(tensor)


def _dense(sparse: SparseTensorProto, name: str) -> TensorProto:
    """Return a sparse tensor as a dense one. Its indices are flat, or one for each axis."""
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return numpy_helper.from_array(dense, name)
