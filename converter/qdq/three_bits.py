"""3-bit codes at 3 bits. ONNX has no such type: two initializers hold the parts, nodes that fold at load join them.

A code c of two's complement is ``(c & 3) | (-4 if c < 0 else 0)``:

    low bits  UINT2 -> Cast(INT8) ------------------------------+
    signs     UINT4 -> Cast(INT32) -> Gather(table) -> Reshape -+-> BitwiseOr -> INT8 codes

Each element of the signs holds those of four codes in a row; the table ``[16, 4]``, one for the file, spreads them.
onnxruntime folds all of it when the session loads (measured on 1.31: the same QLinearConv, the same latency).
"""

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from converter.qdq.fragment import Fragment
from converter.qdq.storage import unsigned_tensor
from passes.numerics.grid import Codes

__all__ = ["join_three_bits", "joined_codes", "packs_three_bits"]

_TOGETHER = 4  # signs in one element
_WORTH = 6144  # codes; in fewer the nodes take more bytes than a bit a code saves
_SIGN_TABLE: NDArray[np.int8] = np.where((np.arange(16)[:, None] >> np.arange(_TOGETHER)) & 1, -4, 0).astype(np.int8)


def packs_three_bits(count: int) -> bool:
    """Whether a weight of that many 3-bit codes lies at 3 bits rather than in INT4."""
    return count >= _WORTH and count % _TOGETHER == 0


def joined_codes(low: NDArray[np.uint8], signs: NDArray[np.uint8]) -> Codes:
    """The codes whose parts a file holds: what the nodes compute."""
    high = _SIGN_TABLE[signs].reshape(low.shape)
    codes: Codes = low.astype(np.int8) | high
    return codes


def join_three_bits(fragment: Fragment, name: str, codes: Codes) -> str:
    """Add codes of -4..3 and the nodes that join their parts; returns the INT8 tensor of the codes' shape.

    Args:
        fragment: what they are added to.
        name: of the weight; the new names begin with it.
        codes: as the file's operator reads them.
    """
    negative = (codes.reshape(-1, _TOGETHER) < 0).astype(np.uint8)
    signs = (negative << np.arange(_TOGETHER, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)  # [n / 4]
    low = fragment.tensor(f"{name}_low", lambda title: unsigned_tensor(title, codes.astype(np.uint8) & 3, 2))
    high = fragment.tensor(f"{name}_signs", lambda title: unsigned_tensor(title, signs, 4))
    table = fragment.shared("sign_table", _SIGN_TABLE)
    shape = fragment.constant(f"{name}_shape", np.array(codes.shape, np.int64))
    low = fragment.node("Cast", f"{name}_cast", [low], f"{name}_low8", to=TensorProto.INT8)
    high = fragment.node("Cast", f"{name}_index", [high], f"{name}_rows", to=TensorProto.INT32)
    high = fragment.node("Gather", f"{name}_spread", [table, high], f"{name}_spread")
    high = fragment.node("Reshape", f"{name}_reshape", [high, shape], f"{name}_high")
    return fragment.node("BitwiseOr", f"{name}_join", [low, high], f"{name}_int8")
