"""Storage of 3-bit codes in 3 bits. ONNX has no such type, so two initializers hold the parts of the codes.

Nodes that are folded when the file is loaded join the parts. A code c in two's complement is
``(c & 3) | (-4 if c < 0 else 0)``:

    low bits  UINT2 -> Cast(INT8) ------------------------------+
    signs     UINT4 -> Cast(INT32) -> Gather(table) -> Reshape -+-> BitwiseOr -> INT8 codes

Each element of the signs holds the signs of four consecutive codes. The table ``[16, 4]`` expands them. A file has one
table. onnxruntime folds all these nodes when the session loads (measured on 1.31: the same QLinearConv, the same
latency).
"""

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from converter.qdq.fragment import Fragment
from converter.qdq.storage import unsigned_tensor
from passes.numerics.grid import Codes

__all__ = ["SIGN_TABLE", "join_three_bits", "joined_codes", "packs_three_bits"]

SIGN_TABLE = "sign_table"
"""Wished name of the table, which all layers of a file share."""

_TOGETHER = 4  # signs per element
_WORTH = 6144  # fewest codes; below it, the nodes take more bytes than one bit per code saves
_SIGNS: NDArray[np.int8] = np.where((np.arange(16)[:, None] >> np.arange(_TOGETHER)) & 1, -4, 0).astype(np.int8)


def packs_three_bits(count: int) -> bool:
    """Whether a weight with ``count`` 3-bit codes is stored in 3 bits instead of INT4."""
    return count >= _WORTH and count % _TOGETHER == 0


def joined_codes(low: NDArray[np.uint8], signs: NDArray[np.uint8]) -> Codes:
    """Join the parts of the codes as the file's nodes do."""
    high = _SIGNS[signs].reshape(low.shape)
    codes: Codes = low.astype(np.int8) | high
    return codes


def join_three_bits(fragment: Fragment, name: str, codes: Codes) -> str:
    """Add codes of -4..3 and the nodes that join their parts.

    Args:
        fragment: Fragment to add them to.
        name: Name of the weight. The new names begin with it.
        codes: The codes, in the shape that the operator reads.

    Returns:
        The INT8 tensor with the codes.
    """
    negative = (codes.reshape(-1, _TOGETHER) < 0).astype(np.uint8)
    signs = (negative << np.arange(_TOGETHER, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)  # [n / 4]
    low = fragment.tensor(f"{name}_low", lambda title: unsigned_tensor(title, codes.astype(np.uint8) & 3, 2))
    high = fragment.tensor(f"{name}_signs", lambda title: unsigned_tensor(title, signs, 4))
    table = fragment.shared(SIGN_TABLE, _SIGNS)
    shape = fragment.constant(f"{name}_shape", np.array(codes.shape, np.int64))
    low = fragment.node("Cast", f"{name}_cast", [low], f"{name}_low8", to=TensorProto.INT8)
    high = fragment.node("Cast", f"{name}_index", [high], f"{name}_rows", to=TensorProto.INT32)
    high = fragment.node("Gather", f"{name}_spread", [table, high], f"{name}_spread")
    high = fragment.node("Reshape", f"{name}_reshape", [high, shape], f"{name}_high")
    return fragment.node("BitwiseOr", f"{name}_join", [low, high], f"{name}_int8")
