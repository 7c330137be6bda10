"""The grids of activations in a quantized file, from the scales and zero points of its nodes."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper

from converter.qdq.stored_weights import Tensors, type_bits, type_name
from passes.errors import ModelError
from passes.numerics.grid import ActivationGrid

__all__ = ["ACTIVATIONS", "ADVICE", "grid_of", "required_constant", "same_grid", "typed_grid"]

ADVICE = "save it in QDQ form before onnxruntime optimizes it, or pass the float model it was made from"
ACTIVATIONS = frozenset({"int8", "uint8", "int16", "uint16"})
_TOLERANCE = 1e-6


def grid_of(node: NodeProto, root: str, tensors: Tensors) -> ActivationGrid:
    """Return the grid of a QuantizeLinear or DequantizeLinear.

    Args:
        node: The node.
        root: Tensor that is quantized, for messages.
        tensors: Constants of the model.

    Raises:
        ModelError: The grid has other than 8 or 16 bits, several scales, or scales that are not constants.
    """
    scale = _single(numpy_helper.to_array(required_constant(node.input[1], root, tensors)))
    if scale.size != 1 or scale.dtype != np.float32:
        raise ModelError(
            f"{root} is quantized with {scale.size} scales of {scale.dtype}; activations with one scale of float32 "
            "are read; quantize it per tensor, or pass the float model"
        )
    if len(node.input) > 2 and node.input[2]:
        tensor = required_constant(node.input[2], root, tensors)
        kind = type_name(tensor.data_type)
        if kind not in ACTIVATIONS:
            raise _unread(root, kind)
        return typed_grid(float(scale.reshape(())), int(_single(numpy_helper.to_array(tensor)).reshape(())), kind)
    return typed_grid(float(scale.reshape(())), 0, _type_without_zero_point(node, root, tensors))


def _type_without_zero_point(node: NodeProto, root: str, tensors: Tensors) -> str:
    """The type of codes that QuantizeLinear writes, also for the DequantizeLinear behind it."""
    maker: NodeProto | None = node
    while maker is not None and maker.op_type != "QuantizeLinear":  # a Clip of codes may stand between
        maker = tensors.makers.get(maker.input[0])
    if maker is not None and len(maker.input) > 2 and maker.input[2]:
        return type_name(required_constant(maker.input[2], root, tensors).data_type)
    for attribute in maker.attribute if maker is not None else ():
        if attribute.name == "output_dtype" and attribute.i:
            kind = type_name(attribute.i)
            if kind not in ACTIVATIONS:
                raise _unread(root, kind)
            return kind
    return "uint8"


def _unread(root: str, kind: str) -> ModelError:
    return ModelError(
        f"{root} is quantized to {kind}; activations of 8 and 16 bits are read; "
        "quantize it to int8, uint8, int16 or uint16, or pass the float model"
    )


def required_constant(name: str, of: str, tensors: Tensors) -> TensorProto:
    """Return a constant that quantizes tensor ``of``. Raise `ModelError` if it is not constant."""
    if name not in tensors.constants:
        raise ModelError(f"{of} is quantized by {name}, which is not a constant; {ADVICE}")
    return tensors.constants[name]


def typed_grid(scale: float, zero_point: int, kind: str) -> ActivationGrid:
    """Return the grid of codes of a type, such as uint8."""
    grid = ActivationGrid(np.float32(scale), zero_point, not kind.startswith("u"), 0.0, 0.0, type_bits(kind))
    low, high = grid.ends
    return replace(grid, low=low, high=high)


def same_grid(one: ActivationGrid, other: ActivationGrid) -> bool:
    """Return whether codes stand for the same values, but for rounding of the scale."""
    alike = (one.zero_point, one.signed, one.bits) == (other.zero_point, other.signed, other.bits)
    return alike and abs(float(one.scale) - float(other.scale)) <= _TOLERANCE * float(one.scale)


def _single(values: NDArray[Any]) -> NDArray[Any]:
    """One value if all are equal, as `converter.qdq.activations` writes them for float layers. Otherwise all values."""
    return values.reshape(-1)[:1] if values.size > 1 and np.all(values == values.flat[0]) else values
