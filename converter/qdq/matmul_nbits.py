"""MatMulNBits (com.microsoft): Gemm and MatMul with 2-, 4- or 8-bit weights in blocks, for onnxruntime's own kernels.

The operator needs ``[o, k]`` weights, cut along k into blocks of one of five sizes (`BLOCKS`). The last block is
padded. Codes are unsigned, so ``2^(bits-1)`` is added to every code and zero point. Two 4-bit codes, or four of 2 bits,
share a byte, lowest bits first. A channel with a single scale is cut too, and each block gets that scale.
"""

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, helper

from converter.qdq.fragment import Fragment, Names
from converter.qdq.storage import pack, stored_bits
from passes.errors import TargetError
from passes.ir.linear import Linear
from passes.ir.model import Quantized

__all__ = ["BLOCKS", "Blocks", "block_bits", "matmul_nbits", "stored_blocks"]

BLOCKS = (16, 32, 64, 128, 256)
"""Block sizes for which onnxruntime 1.31 has kernels. It refuses to load any other."""

_INTEGER_SUMS = 4
"""Accuracy level at which the kernel rounds activations to int8 in blocks, which loses far less than 4-bit weights.
With floats, onnxruntime 1.31 is slower for 4-bit weights, and dequantizes 8-bit weights in every run."""

_TWO_BITS = (32, 64, 128)
"""Block sizes for which onnxruntime 1.31 sums 2-bit weights on integers. With others it dequantizes in every run,
which is far slower."""

_LISTED = f"{', '.join(map(str, BLOCKS[:-1]))} or {BLOCKS[-1]}"


@dataclass(frozen=True)
class Blocks:
    """How a weight is stored for MatMulNBits.

    Attributes:
        codes: Name of the codes, ``[o, b, bytes]``.
        scale: Name of their scales, ``[o, b]``.
        bits: Bits of a code.
        size: Codes in a block.
        middle: Number that is added to every code and zero point.
    """

    codes: str
    scale: str
    bits: int
    size: int
    middle: int


def block_bits(bits: int, block_size: int | None, narrowest: int) -> int:
    """Return the bits of a code in the file.

    Args:
        bits: Bits of the grid.
        block_size: Inputs that share a scale. None: all of a channel.
        narrowest: See `passes.ir.rules.Rules.narrowest`.
    """
    stored = max(stored_bits(bits), min(narrowest, 4))
    return max(stored, 4) if block_size not in (None, *_TWO_BITS) else stored


def stored_blocks(fragment: Fragment, layer: Linear, quantized: Quantized, narrowest: int = 4) -> Blocks:
    """Add the codes and scales of a layer to the file, unless they are in it.

    Args:
        fragment: Gets the constants.
        layer: The layer.
        quantized: Its codes.
        narrowest: Fewest bits of a code. 2 or 4.

    Raises:
        TargetError: onnxruntime has no kernel for the block size, or the scales of blocks are multiples.
    """
    grid, (_, outputs, k) = quantized.grid, quantized.codes.shape
    if grid.multiples is not None:
        raise TargetError(
            f"{layer.name}: MatMulNBits reads float scales of blocks, not multiples of a channel's; use storage cast"
        )
    bits = block_bits(grid.bits, grid.block_size, narrowest)
    sizes = _TWO_BITS if bits == 2 else BLOCKS
    block_size = grid.block_size or next((size for size in sizes if size >= k), sizes[-1])
    if block_size not in BLOCKS:
        raise TargetError(f"{layer.name}: MatMulNBits cannot read blocks of {block_size}; use block_size = {_LISTED}")
    blocks = -(-k // block_size)
    scale = np.repeat(grid.scale[0], blocks // grid.scale.shape[2], axis=1)  # [o, b]
    middle = 1 << (bits - 1)
    codes = quantized.codes[0].astype(np.int16) + middle  # [o, k]
    codes = np.pad(codes, ((0, 0), (0, blocks * block_size - k)), constant_values=middle)
    packed = pack(codes.reshape(-1), bits).reshape(outputs, blocks, block_size * bits // 8)
    name = layer.weight
    codes_name = fragment.shared(f"{name}_int{bits}_blocks", packed)
    return Blocks(codes_name, fragment.shared(f"{name}_block_scale", scale), bits, block_size, middle)


def matmul_nbits(layer: Linear, quantized: Quantized, node: NodeProto, names: Names, narrowest: int = 4) -> Fragment:
    """The node that replaces a Gemm or MatMul, with its initializers. For ``narrowest`` see `stored_blocks`.

    Raises:
        TargetError: See `stored_blocks`.
    """
    grid, (_, outputs, k) = quantized.grid, quantized.codes.shape
    name = layer.weight
    fragment = Fragment(names)
    stored = stored_blocks(fragment, layer, quantized, narrowest)
    bits, block_size, middle = stored.bits, stored.size, stored.middle
    inputs = [node.input[0], stored.codes, stored.scale]
    bias = len(node.input) > 2 and bool(node.input[2])
    if not grid.symmetric:
        blocks = -(-k // block_size)
        zero_point = np.repeat(grid.zero_point[0], blocks // grid.scale.shape[2], axis=1)  # [o, b]
        zeros = zero_point.astype(np.int16) + middle
        filled = np.pad(zeros, ((0, 0), (0, -blocks % (8 // bits))), constant_values=middle)
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
            accuracy_level=_INTEGER_SUMS,
        )
    )
    return fragment
