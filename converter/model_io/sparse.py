"""Sparse tensors as dense ones, since onnx's shape inference and the graph of the passes have no sparse tensors."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, SparseTensorProto, TensorProto, numpy_helper

from converter.model_io.external_data import load_external_data
from converter.model_io.protobuf import function_nodes, model_graphs, model_nodes
from converter.model_io.sizes import stored_bits
from passes.errors import ModelError

__all__ = ["make_dense", "require_sound_sparse", "with_dense_functions"]

_ATTRIBUTE = "sparse_value"
_PORTION = 2**24
"""Bytes that are searched at once."""
_MOST_BYTES = 2**30
"""Of all dense forms together. A file of a few bytes could fill the memory otherwise."""


def require_sound_sparse(name: str, model: ModelProto) -> None:
    """Require that every sparse tensor of a model, also of its functions, has a dense form of a sensible size.

    Raises:
        ModelError: A tensor is damaged, has an index outside of its shape or its data in another file, or all of them
            together are too large.
    """
    left = _MOST_BYTES
    for tensor in _sparse_tensors(model):
        if fault := _fault(tensor, left):
            raise ModelError(f"{name}: the sparse tensor {tensor.values.name or 'of a constant'} {fault}")
        left -= _dense_bytes(tensor)


def make_dense(model: ModelProto) -> None:
    """Turn the sparse initializers and constants of a sound model into dense ones, in place. It computes the same."""
    for graph in model_graphs(model):
        graph.initializer.extend(_dense(tensor, tensor.values.name) for tensor in graph.sparse_initializer)
        del graph.sparse_initializer[:]
    functions = {(function.domain, function.name) for function in model.functions}
    for node in model_nodes(model):
        constant = node.op_type == "Constant"
        if constant or (node.domain, node.op_type) in functions:
            for attribute in node.attribute:
                _make_attribute_dense(attribute, constant=constant)
    for function in model.functions:
        for attribute in function.attribute_proto:
            _make_attribute_dense(attribute)


def with_dense_functions(model: ModelProto | Path) -> ModelProto | Path:
    """Return a model whose functions hold no sparse constants: `model` itself if it has none.

    onnxruntime 1.31 writes outside its memory when it inlines a function with one, and the process may crash.
    """
    if isinstance(model, Path):
        if not _mentions(model, _ATTRIBUTE.encode()):
            return model
        read = onnx.load_model(model, format="protobuf", load_external_data=False)
        if not _sparse_functions(read):
            return model
        load_external_data(model, read)
        make_dense(read)
        return read
    if not _sparse_functions(model):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    make_dense(copy)
    return copy


def _mentions(path: Path, text: bytes) -> bool:
    """Whether a file holds these bytes. It is much faster than reading the model."""
    kept = b""
    with path.open("rb") as file:
        while portion := file.read(_PORTION):
            searched = kept + portion
            if text in searched:
                return True
            kept = searched[1 - len(text) :]
    return False


def _sparse_functions(model: ModelProto) -> bool:
    """Whether a function of the model holds a sparse constant."""
    return any(attribute.name == _ATTRIBUTE for node in function_nodes(model) for attribute in node.attribute)


def _sparse_tensors(model: ModelProto) -> Iterator[SparseTensorProto]:
    for graph in model_graphs(model):
        yield from graph.sparse_initializer
    attributes = [attribute for node in model_nodes(model) for attribute in node.attribute]
    attributes += [attribute for function in model.functions for attribute in function.attribute_proto]
    for attribute in attributes:
        if attribute.HasField("sparse_tensor"):
            yield attribute.sparse_tensor
        yield from attribute.sparse_tensors


# --- one tensor ------------------------------------------------------------------------------------------------------


def _fault(sparse: SparseTensorProto, most_bytes: int) -> str:
    """Return why a sparse tensor has no dense form, or a form of more bytes than this. Empty if it has one."""
    shape = list(sparse.dims)
    if any(part.data_location == TensorProto.EXTERNAL for part in (sparse.values, sparse.indices)):
        return "has its data in another file; store them in the model"
    if sparse.values.data_type == TensorProto.STRING:
        return "holds texts; use a tensor that is not sparse"
    if any(size < 0 for size in shape):
        return f"has the shape {shape}; export the model again"
    damaged = "is damaged: its values or indices cannot be read; export the model again"
    if any(size < 0 for size in (*sparse.values.dims, *sparse.indices.dims)):
        return damaged  # numpy would take it for "as many as there are"
    try:
        values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
        size = _dense_bytes(sparse)
    except Exception:  # onnx raises errors of many types
        return damaged
    if size > most_bytes:
        return f"{shape} is too large with all its zeros (1 GB is the most); use a smaller one"
    return _index_fault(values, indices, shape)


def _index_fault(values: NDArray[Any], indices: NDArray[Any], shape: list[int]) -> str:
    """Return what is wrong with the indices of a sparse tensor: one number for each value, or one for each axis."""
    flat = indices.ndim == 1
    sizes = np.array([math.prod(shape)] if flat else shape, np.int64)
    expected = [(len(values),), (len(values), len(shape))] if values.ndim == 1 else []
    if indices.shape not in expected or indices.dtype.kind != "i":
        return (
            f"{shape} has {indices.dtype} indices {list(indices.shape)} for values {list(values.shape)}; "
            "export the model again"
        )
    rows = indices.reshape(len(values), len(sizes))
    if outside := rows[((rows < 0) | (rows >= sizes)).any(axis=1)].tolist():
        return f"{shape} has a value at {outside[0][0] if flat else outside[0]}, outside of it; export the model again"
    return ""


def _dense_bytes(sparse: SparseTensorProto) -> int:
    return int(math.prod(sparse.dims)) * stored_bits(sparse.values.data_type) // 8


def _make_attribute_dense(attribute: AttributeProto, *, constant: bool = False) -> None:
    """Turn a sparse attribute, or a Constant's reference to a sparse one of its function, into a dense one."""
    if attribute.type != AttributeProto.SPARSE_TENSOR:
        return
    if attribute.HasField("sparse_tensor"):
        attribute.t.CopyFrom(_dense(attribute.sparse_tensor, ""))
        attribute.ClearField("sparse_tensor")
    attribute.type = AttributeProto.TENSOR
    if constant:
        attribute.name = "value"


def _dense(sparse: SparseTensorProto, name: str) -> TensorProto:
    """Return a sparse tensor as a dense one. Its indices are flat, or one for each axis."""
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return numpy_helper.from_array(dense, name)
