"""Codes and scales of a quantized file's constants, as arrays. `converter.qdq.stored_weights` finds the constants.

Floats that the file itself quantizes are rounded here as QuantizeLinear would: once, to the nearest code, ties to even.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper

from converter.qdq.stored_weights import StoredWeight, Tensors, find_stored, int_attribute, type_name
from converter.qdq.three_bits import joined_codes
from passes.ir.existing_qparams import ExistingCodes
from passes.numerics.grid import Codes, Floats, dequantized

__all__ = ["FoundConstant", "found_constant", "weight_codes"]

_BITS = {"int8": 8, "uint8": 8, "int4": 4, "uint4": 4, "int3": 3, "int2": 2, "uint2": 2}
_FORMS = {
    ("DequantizeLinear",),
    ("DequantizeLinear", "Cast"),
    ("DequantizeLinear", "BitwiseOr", "Cast"),
    ("DequantizeLinear", "Slice"),
    ("DequantizeLinear", "QuantizeLinear"),
    ("DequantizeLinear", "Clip", "QuantizeLinear"),
    ("DequantizeLinear", "Reshape", "Mul", "Cast"),
    ("DequantizeLinear", "Reshape", "Mul", "BitwiseOr", "Cast"),
    ("Mul", "Cast"),
    ("Mul", "Reshape", "Mul", "Cast"),
    ("Mul", "Sub", "Cast"),
    ("Reshape", "Mul", "Cast"),
    ("Reshape", "Mul", "Sub", "Cast"),
}


@dataclass(frozen=True)
class FoundConstant:
    """Codes of any integer type, with the scale and the zero point of each code. All arrays have one shape.

    Attributes:
        codes: The codes.
        scale: Scale of every code.
        zero_point: Zero point of every code.
        type: Type of the codes: int8, uint4, int32.
        block_size: Elements along one axis that share a scale or a multiple of it.
        multiples: Multiple of every code's scale. None if all are 1.
    """

    codes: NDArray[Any]
    scale: Floats
    zero_point: NDArray[Any]
    type: str
    block_size: int | None = None
    multiples: Codes | None = None

    def values(self) -> Floats:
        """The dequantized values."""
        return dequantized(self.codes, self.scale, self.zero_point, self.multiples)


def weight_codes(stored: StoredWeight, tensors: Tensors, bias: NDArray[np.int32] | None = None) -> ExistingCodes | None:
    """A weight of at most 8 bits in the shape that its operator reads. None for floats and for unknown forms."""
    turns = _turns(stored)
    transposes = [node for node in stored.operators if node.op_type == "Transpose" and node not in turns]
    first = [node for node in stored.operators if node.op_type != "Identity"][: len(transposes)]
    constant = _constant(stored, tensors)
    if constant is None or constant.type not in _BITS:
        return None
    if [node.op_type for node in first] != ["Transpose"] * len(transposes):
        return None
    bits = _BITS[constant.type]
    shift = 1 << (bits - 1) if constant.type.startswith("u") else 0
    parts: list[NDArray[Any]] = [
        constant.codes.astype(np.int32) - shift,
        constant.scale,
        constant.zero_point.astype(np.int32) - shift,
        *([] if constant.multiples is None else [constant.multiples]),
    ]
    for node in reversed(transposes):
        parts = [np.transpose(part, _perm(node)) for part in parts]
    codes, scale, zero_point, *multiples = parts
    return ExistingCodes(
        codes.astype(np.int8), scale, zero_point.astype(np.int8), bits, constant.block_size, bias, *multiples
    )


def found_constant(node: NodeProto, tensors: Tensors) -> FoundConstant | None:
    """The constant that a DequantizeLinear reads. None if it reads no constant."""
    stored = find_stored(node.output[0], tensors)
    turns = _turns(stored)
    moved = any(step.op_type == "Transpose" and step not in turns for step in stored.operators)
    return None if moved else _constant(stored, tensors)


def _turns(stored: StoredWeight) -> list[NodeProto]:
    """The Transposes of the codes themselves, before they get a scale: rows of an embedding table."""
    steps = [node for node in stored.operators if node.op_type != "Identity"]
    kept = len(steps)
    while kept and steps[kept - 1].op_type == "Transpose":
        kept -= 1
    return steps[kept:] if kept else []


def _perm(node: NodeProto) -> list[int] | None:
    return next((list(entry.ints) for entry in node.attribute if entry.name == "perm"), None)


def _constant(stored: StoredWeight, tensors: Tensors) -> FoundConstant | None:
    steps = {node.op_type: node for node in stored.operators}
    form = tuple(node.op_type for node in stored.operators if node.op_type not in {"Identity", "Transpose"})
    if stored.codes is None or stored.scale is None or form not in _FORMS:
        return None
    if "Slice" in form and not _takes_all(steps["Slice"], stored.codes, tensors):
        return None
    in_blocks = form[0] == "Reshape"  # each block is a row with a scale, and the rows become the weight at last
    if not in_blocks and ("Reshape" in form) != (stored.multiples is not None):
        return None
    if stored.is_float != ("QuantizeLinear" in steps) or stored.scale.data_type != TensorProto.FLOAT:
        return None
    codes = numpy_helper.to_array(stored.codes)
    for node in reversed(_turns(stored)):
        codes = np.transpose(codes, _perm(node))
    if stored.signs is not None:
        codes = joined_codes(codes.astype(np.uint8), numpy_helper.to_array(stored.signs).astype(np.uint8))
    block_size, multiples = None, None
    if stored.multiples is not None:
        shape = numpy_helper.to_array(tensors.constants[steps["Reshape"].input[1]])
        shared = numpy_helper.to_array(stored.multiples).astype(np.int8)
        block_size = codes.size // shared.size
        codes, multiples = (part.reshape(shape) for part in (codes, np.broadcast_to(shared, codes.shape)))
    last = stored.operators[[node.op_type in {"DequantizeLinear", "Mul"} for node in stored.operators].index(True)]
    scale = _spread(numpy_helper.to_array(stored.scale), last, codes.shape)
    zero = np.zeros((), np.int32) if stored.zero_point is None else numpy_helper.to_array(stored.zero_point)
    zero_point = _spread(zero.astype(np.int32), last, codes.shape)
    if scale is None or zero_point is None:
        return None
    kind = stored.type
    if "QuantizeLinear" in steps:
        kind = "uint8" if stored.zero_point is None else type_name(stored.zero_point.data_type)
        codes = _rounded(codes, scale, zero_point, kind)
        if "Clip" in steps:
            codes = _clipped(codes, steps["Clip"], tensors)
    elif type_name(stored.codes.data_type).startswith("float"):
        return None
    block_size = block_size or int_attribute(last, "block_size", 0) or None
    if in_blocks:
        block_size = codes.shape[-1]
        target = numpy_helper.to_array(tensors.constants[steps["Reshape"].input[1]])
        codes, scale, zero_point = (part.reshape(target) for part in (codes, scale, zero_point))
    return FoundConstant(codes.astype(np.int32), scale, zero_point, kind, block_size, multiples)


def _takes_all(node: NodeProto, codes: TensorProto, tensors: Tensors) -> bool:
    """Whether a Slice takes all of a weight's codes (`converter.qdq.weights.dequantized_weight`)."""
    bounds = [tensors.constants.get(name) for name in node.input[1:]]
    if len(bounds) != 3 or any(bound is None for bound in bounds):
        return False
    (start,), (end,), (axis,) = (numpy_helper.to_array(bound).reshape(-1) for bound in bounds if bound is not None)
    return bool(start == 0 and axis == 0 and end >= codes.dims[0])


def _spread(values: NDArray[Any], node: NodeProto, shape: tuple[int, ...]) -> NDArray[Any] | None:
    """A scale or zero point broadcast to every code. None if the shapes do not fit."""
    if values.size == 1:
        return np.broadcast_to(values.reshape(()), shape)
    axis, block_size = int_attribute(node, "axis", 1) % max(len(shape), 1), int_attribute(node, "block_size", 0)
    if node.op_type == "DequantizeLinear" and block_size:
        spread: NDArray[Any] = np.repeat(values, block_size, axis).take(np.arange(shape[axis]), axis)
        return spread
    if node.op_type == "DequantizeLinear":
        values = values.reshape([-1 if index == axis else 1 for index in range(len(shape))])
    try:
        return np.broadcast_to(values, shape)
    except ValueError:
        return None


def _rounded(values: Floats, scale: Floats, zero_point: NDArray[Any], kind: str) -> NDArray[Any]:
    bits = _BITS.get(kind, 8)
    low = 0 if kind.startswith("u") else -(1 << (bits - 1))
    codes: NDArray[Any] = np.clip(np.rint(values / scale) + zero_point, low, low + (1 << bits) - 1)
    return codes


def _clipped(codes: NDArray[Any], clip: NodeProto, tensors: Tensors) -> NDArray[Any]:
    bounds = [tensors.constants.get(name) for name in clip.input[1:3]]
    for bound, limit in zip(bounds, (np.maximum, np.minimum), strict=False):
        codes = codes if bound is None else limit(codes, int(numpy_helper.to_array(bound).reshape(())))
    return codes
