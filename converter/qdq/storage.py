"""Storage of weight codes in the file. Only this module knows how codes are packed.

INT4 and INT2 tensors hold two and four codes per byte, the first in the lowest bits (ONNX, TensorProto.raw_data).
MatMulNBits needs unsigned codes in its own byte layout (onnxruntime, contrib operator MatMulNBits).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

__all__ = ["code_tensor", "pack", "stored_bits", "unsigned_tensor"]

_TYPES = {2: TensorProto.INT2, 4: TensorProto.INT4, 8: TensorProto.INT8}
_UNSIGNED = {2: TensorProto.UINT2, 4: TensorProto.UINT4}


def stored_bits(bits: int) -> int:
    """Bits on disk of a code with ``bits`` bits: rounded up to 2, 4 or 8."""
    return 2 if bits <= 2 else 4 if bits <= 4 else 8


def pack(codes: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Flatten integer codes and pack ``8 / bits`` of them into each byte, lowest bits first.

    >>> pack(np.array([1, -1, 7], np.int8), 4)
    array([241,   7], dtype=uint8)
    """
    per_byte = 8 // bits
    flat = codes.reshape(-1).astype(np.uint8) & np.uint8((1 << bits) - 1)
    padded = np.pad(flat, (0, -len(flat) % per_byte)).reshape(-1, per_byte)
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(padded << shifts, axis=1)
    return packed


def code_tensor(name: str, codes: NDArray[Any], bits: int) -> TensorProto:
    """An INT2, INT4 or INT8 initializer with the shape of the codes. ``bits`` is 2, 4 or 8."""
    tensor = TensorProto(name=name, data_type=_TYPES[bits], dims=codes.shape)
    tensor.raw_data = codes.astype(np.int8).tobytes() if bits == 8 else pack(codes, bits).tobytes()
    return tensor


def unsigned_tensor(name: str, codes: NDArray[Any], bits: int) -> TensorProto:
    """A UINT2 or UINT4 initializer with the shape of the codes. ``bits`` is 2 or 4."""
    return TensorProto(name=name, data_type=_UNSIGNED[bits], dims=codes.shape, raw_data=pack(codes, bits).tobytes())
