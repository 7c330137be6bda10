"""Sparse constants as dense ones, since onnx's shape inference and the graph of the passes have no sparse tensors."""

import mmap
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, numpy_helper

__all__ = ["make_dense", "make_initializers_dense", "with_dense_functions"]

_ATTRIBUTE = "sparse_value"


def with_dense_functions(model: ModelProto | Path) -> ModelProto | Path:
    """Return a model whose functions hold no sparse constants: `model` itself if it has none.

    onnxruntime 1.31 writes outside its memory when it inlines a function with one, and the process may crash.
    """
    if isinstance(model, Path):
        if not _mentions(model, _ATTRIBUTE.encode()):
            return model
        read = onnx.load(model)
        return with_dense_functions(read) if _sparse(read) else model
    if not _sparse(model):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    for function in copy.functions:
        make_dense(function.node)
    return copy


def _mentions(path: Path, text: bytes) -> bool:
    """Whether a file holds these bytes. It is much faster than reading the model."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return mapped.find(text) >= 0


def _sparse(model: ModelProto) -> bool:
    """Whether a function of the model holds a sparse constant."""
    nodes = (node for function in model.functions for node in function.node)
    return any(attribute.name == _ATTRIBUTE for node in nodes for attribute in node.attribute)


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
