"""Sizes and digests of models of any size. protobuf serializes up to 2 GiB at once."""

import hashlib
import math

import onnx
from onnx import TensorProto, helper

from converter.model_io.protobuf import all_tensors, copy_fields

__all__ = ["fits_one_file", "model_digest", "serialized_bytes", "stored_bits", "tensorwise_digest", "weight_bytes"]

INLINE_LIMIT = 2**31 - 2**24  # bytes of weights in a single protobuf (2 GiB at most), with room for the nodes
_PACKED_BITS: dict[int, int] = {
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.FLOAT4E2M1: 4,
    TensorProto.INT2: 2,
    TensorProto.UINT2: 2,
}


def stored_bits(data_type: int) -> int:
    """Bits of a value of a type of TensorProto. Strings have none."""
    if data_type == TensorProto.STRING:
        return 0
    return _PACKED_BITS.get(data_type) or 8 * helper.tensor_dtype_to_np_dtype(data_type).itemsize


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all stored tensors, from their shapes and types."""
    return sum(-(-math.prod(t.dims) * stored_bits(t.data_type) // 8) for t in all_tensors(model.graph))


def fits_one_file(model: onnx.ModelProto, limit: int | None = None) -> bool:
    """Whether a model can be serialized as a whole.

    Args:
        model: The model.
        limit: Most bytes of weights. None: what protobuf can hold.
    """
    return weight_bytes(model) <= (INLINE_LIMIT if limit is None else limit)


def serialized_bytes(model: onnx.ModelProto) -> int:
    """Size of a model's file, together with its external data."""
    if fits_one_file(model):
        return int(model.ByteSize())
    return int(_without_weights(model).ByteSize() + sum(tensor.ByteSize() for tensor in model.graph.initializer))


def model_digest(model: onnx.ModelProto) -> str:
    """SHA-256 in hex of a model. The tensors of a large model are hashed one by one."""
    if fits_one_file(model):
        return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    return tensorwise_digest(model)


def tensorwise_digest(model: onnx.ModelProto) -> str:
    """SHA-256 in hex of a model, whose tensors are hashed one by one. It needs no more memory than the largest one."""
    total = hashlib.sha256(_without_weights(model).SerializeToString(deterministic=True))
    for tensor in model.graph.initializer:
        total.update(tensor.SerializeToString(deterministic=True))
    return total.hexdigest()


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy_fields(model, copy, skip={"graph"})
    copy_fields(model.graph, copy.graph, skip={"initializer"})
    return copy
