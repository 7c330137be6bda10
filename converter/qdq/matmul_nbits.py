"""MatMulNBits (com.microsoft): Gemm and MatMul with 4- or 8-bit weights in blocks, for onnxruntime's own kernels.

The operator needs ``[o, k]`` weights, cut along k into blocks of one of five sizes (`BLOCKS`). The last block is
padded. Codes are unsigned, so ``2^(bits-1)`` is added to every code and zero point. Two 4-bit codes share a byte,
lowest bits first. A channel with a single scale is cut too, and each block gets that scale.
"""

import numpy as np
from onnx import NodeProto, helper

from converter.qdq.fragment import Fragment, Names
from converter.qdq.storage import pack, stored_bits
from passes.errors import TargetError
from passes.ir.linear import Linear
from passes.ir.model import Quantized

__all__ = ["BLOCKS", "matmul_nbits"]

BLOCKS = (16, 32, 64, 128, 256)
"""Block sizes for which onnxruntime 1.31 has kernels. It refuses to load any other."""

_LISTED = f"{', '.join(map(str, BLOCKS[:-1]))} or {BLOCKS[-1]}"


def matmul_nbits(layer: Linear, quantized: Quantized, node: NodeProto, names: Names) -> Fragment:
    """The node that replaces a Gemm or MatMul, with its initializers.

    Raises:
        TargetError: onnxruntime has no kernel for the block size, or the scales of blocks are multiples.
    """
    grid, (_, outputs, k) = quantized.grid, quantized.codes.shape
    if grid.multiples is not None:
        raise TargetError(
            f"{layer.name}: MatMulNBits reads float scales of blocks, not multiples of a channel's; use storage cast"
        )
    bits = max(stored_bits(grid.bits), 4)
    block_size = grid.block_size or next((size for size in BLOCKS if size >= k), BLOCKS[-1])
    if block_size not in BLOCKS:
        raise TargetError(f"{layer.name}: MatMulNBits cannot read blocks of {block_size}; use block_size = {_LISTED}")
    blocks = -(-k // block_size)
    repeats = blocks // grid.scale.shape[2]
    scale, zero_point = (np.repeat(part[0], repeats, axis=1) for part in (grid.scale, grid.zero_point))  # [o, b]
    middle = 1 << (bits - 1)
    zeros = zero_point.astype(np.int16) + middle  # [o, b]
    codes = quantized.codes[0].astype(np.int16) + middle  # [o, k]
    codes = np.pad(codes, ((0, 0), (0, blocks * block_size - k)), constant_values=middle)
    packed = pack(codes.reshape(-1), bits).reshape(outputs, blocks, block_size * bits // 8)
    name = layer.weight
    fragment = Fragment(names)
    inputs = [
        node.input[0],
        fragment.shared(f"{name}_int{bits}", packed),
        fragment.shared(f"{name}_scale", scale),
    ]
    bias = len(node.input) > 2 and bool(node.input[2])
    if not grid.symmetric:
        filled = np.pad(zeros, ((0, 0), (0, blocks % 2 if bits == 4 else 0)), constant_values=middle)
        inputs.append(fragment.shared(f"{name}_zero_point", pack(filled.reshape(-1), bits).reshape(outputs, -1)))
    elif bias:
        inputs.append("")
    if bias:
        inputs += ["", node.input[2]]
    fragment.nodes.append(
        helper.make_node(
            "MatMulNBits",
            inputs,
            list(node.output),
            name=node.name,
            domain="com.microsoft",
            K=k,
            N=outputs,
            bits=bits,
            block_size=block_size,
        )
    )
    return fragment
