"""Storage forms of one layer's weight, from its codes to the float tensor that the operator reads. Every form is exact.

A recipe names one of these forms (`Storage`). They differ in layers that run on integers:

cast         codes INT2/INT4/INT8 -> Cast(INT8) -> DequantizeLinear     folded at load, then fused to an integer kernel
             blocks whose scales are whole multiples of their channel's scale:
             codes -> Cast(INT8) -> Mul(multiples) -> Reshape -> DequantizeLinear
packed       like cast, but 3-bit codes take 3 bits (`converter.qdq.three_bits`) instead of 4
int8         codes INT8 -> DequantizeLinear; small layers have it in every recipe, see `smaller_storage`
dequantize   codes INT4 -> DequantizeLinear                             for targets that read packed codes themselves
matmulnbits  like cast; Gemm and MatMul with float activations become MatMulNBits (`converter.qdq.matmul_nbits`)
dynamic      like cast; Gemm and MatMul with float activations quantize them in every run (`converter.qdq.dynamic`)

The weight of a layer with float activations has another form in all of them (`rescaled_weight`). Only `dequantize`
keeps its own form there if the scales lie along one axis.

             codes -> Cast(FLOAT) [-> Sub] -> Mul(scale) [-> Reshape -> Slice]   folded at load
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, TensorProto

from converter.qdq.fragment import Fragment, Names
from converter.qdq.storage import stored_bits
from converter.qdq.three_bits import join_three_bits, packs_three_bits
from passes.ir.linear import Linear
from passes.ir.model import Quantized
from passes.numerics.grid import Codes

__all__ = [
    "STORAGES",
    "Storage",
    "dequantized_bits",
    "dequantized_weight",
    "file_bits",
    "fragment_bytes",
    "int8_codes",
    "is_small",
    "output_rows",
    "rescaled_weight",
    "smaller_storage",
    "whole_copy",
]

Storage = Literal["cast", "packed", "int8", "dequantize", "matmulnbits", "dynamic"]
_SMALL = 2**13  # codes of a layer; in a larger one, packing saves more than any nodes take
STORAGES: tuple[Storage, ...] = get_args(Storage)


def file_bits(bits: int, storage: Storage, narrowest: int = 2) -> int:
    """Bits in the file of a code with ``bits`` bits. ``narrowest``: bits of the target's smallest integer type."""
    return 8 if storage == "int8" else max(stored_bits(bits), narrowest)


def dequantized_bits(bits: int, count: int, storage: Storage, narrowest: int = 2) -> int:
    """Bits per code for a weight with ``count`` codes in `dequantized_weight`, which can pack 3 bits."""
    if bits == 3 and storage == "packed" and narrowest <= 2 and packs_three_bits(count):
        return 3
    return file_bits(bits, storage, narrowest)


def dequantized_weight(
    layer: Linear,
    quantized: Quantized,
    storage: Storage,
    names: Names,
    narrowest: int = 2,
    reader: int = 0,
    *,
    by_output: bool = False,
) -> Fragment:
    """The per-channel form from which an integer kernel is fused: codes, [Cast,] DequantizeLinear.

    With ``session.x64quantprecision``, onnxruntime 1.31 turns int8 codes and zero points to uint8 under a name that is
    the same for all layers that read them, and fails to load the file. So each layer gets tensors of its own when the
    file loads, the codes by a Slice that takes everything.

    INT2 is always cast. onnxruntime 1.31 fuses ``DequantizeLinear(INT2)`` to kernels that cannot read it or that read
    it wrongly.

    Args:
        layer, quantized, storage, names, narrowest: The layer, its codes, and how the file stores them.
        reader: Number of the layer among those that share the weight, where every one needs a tensor of its own.
        by_output: Whether the file has the codes of each output in a row, see `output_rows`.
    """
    name, grid = layer.weight, quantized.grid
    fragment = Fragment(names)
    bits = dequantized_bits(grid.bits, quantized.codes.size, storage, narrowest)
    packed = storage == "dequantize" and bits == 4 and grid.multiples is None
    if grid.multiples is not None and bits < 8:
        codes = _multiplied(fragment, layer, quantized, bits, TensorProto.INT8)
    elif packed:
        codes = fragment.codes(f"{name}_int4", layer.stored(quantized.codes), bits)
    elif by_output:
        codes = _turned(fragment, layer, output_rows(fragment, layer, quantized))
    else:
        codes = _cast(fragment, name, layer.stored(grid.integers(quantized.codes)), bits, TensorProto.INT8)
    zeros = grid.zero_point.reshape(-1)
    if reader:
        codes = whole_copy(fragment, name, codes, layer.weight_shape[0], reader)
    scale = fragment.shared(f"{name}_scale", grid.scale.reshape(-1))
    if packed:
        zero_point = fragment.codes(f"{name}_zero_point", zeros, bits)
    else:
        zero_point = fragment.constant(f"{name}_zero_point", zeros)
    inputs, result = [codes, scale, zero_point], f"{name}_dequantized"
    fragment.node("DequantizeLinear", f"{name}_dequantize", inputs, result, axis=layer.channel_axis)
    return fragment


def whole_copy(fragment: Fragment, name: str, codes: str, length: int, reader: int) -> str:
    """Add a Slice that takes all of a tensor. Return its result, which is a tensor of its own when the file loads.

    Args:
        fragment: Where the nodes go.
        name: Name of the weight.
        codes: The tensor.
        length: Its size along the first axis.
        reader: Number of the reader. Slices of several readers differ, so that they are not merged.
    """
    end = fragment.constant(f"{name}_end", np.array([length + reader], np.int64))
    start = fragment.shared(f"{name}_start", np.array([0], np.int64))
    return fragment.node("Slice", f"{name}_whole", [codes, start, end, start], f"{name}_copy")


def int8_codes(fragment: Fragment, name: str, form: str, codes: Codes, bits: int, reader: int) -> str:
    """Add the codes of a weight, unless another reader has, and return the name of their int8 form.

    Args:
        fragment: Where the constants and nodes go.
        name: Name of the weight.
        form: Tells this order of the codes from others of the same weight.
        codes: The codes, in the order in which an operator of integers reads them.
        bits: Bits that store a code.
        reader: Number of the reader. All but the first get a copy, see `whole_copy`.
    """
    key = f"{name}_{form}"
    if key not in fragment.names.shared:
        fragment.names.shared[key] = fragment.codes(f"{name}_int{bits}", codes, bits)
    stored = fragment.names.shared[key]
    if bits < 8:
        stored = fragment.node("Cast", f"{name}_cast", [stored], f"{name}_codes", to=TensorProto.INT8)
    return whole_copy(fragment, name, stored, len(codes), reader) if reader else stored


def smaller_storage(
    form: Callable[..., Fragment], layer: Linear, quantized: Quantized, storage: Storage, narrowest: int = 2
) -> Storage:
    """Return `int8` if packed codes of a small layer take more bytes than int8 codes, with the nodes that unpack them.

    Both forms hold the same weights.

    Args:
        form: `dequantized_weight` or `rescaled_weight`.
        layer, quantized, storage, narrowest: The layer, its codes, and how the recipe stores them.
    """
    if storage == "int8" or quantized.grid.bits == 8 or not is_small(quantized):
        return storage
    packed, plain = (
        fragment_bytes(form(layer, quantized, each, Names(GraphProto()), narrowest)) for each in (storage, "int8")
    )
    return "int8" if plain < packed else storage


def is_small(quantized: Quantized) -> bool:
    """Whether a layer is so small that int8 codes may take fewer bytes than the nodes that unpack others."""
    return quantized.codes.size <= _SMALL


def fragment_bytes(fragment: Fragment) -> int:
    """Bytes of a fragment's nodes and constants in a file."""
    return len(GraphProto(node=fragment.nodes, initializer=fragment.initializers).SerializeToString())


def output_rows(fragment: Fragment, layer: Linear, quantized: Quantized) -> str:
    """The int8 codes of a Gemm or MatMul, one row for each output, unless the file has them. Return their name."""
    return fragment.shared(f"{layer.weight}_int8", quantized.grid.integers(quantized.codes)[0].astype(np.int8))


def _turned(fragment: Fragment, layer: Linear, rows: str) -> str:
    """Codes with one row for each output, as the layer stores them. onnxruntime transposes them when it loads them."""
    if layer.channel_axis == 0:
        return rows
    return fragment.node("Transpose", f"{layer.weight}_turn", [rows], f"{layer.weight}_columns", perm=[1, 0])


def _cast(fragment: Fragment, name: str, codes: Codes, bits: int, to: int) -> str:
    """Codes of any shape, as a tensor of type ``to``: INT8 or FLOAT."""
    if bits == 3:
        return join_three_bits(fragment, name, codes)
    if bits == 8 and to == TensorProto.INT8:
        return fragment.shared(f"{name}_int8", codes.astype(np.int8))
    packed = fragment.codes(f"{name}_int{bits}", codes, bits)
    result = f"{name}_int8" if to == TensorProto.INT8 else f"{name}_float"
    return fragment.node("Cast", f"{name}_cast", [packed], result, to=to)


def _multiplied(fragment: Fragment, layer: Linear, quantized: Quantized, bits: int, to: int) -> str:
    """Codes times the multiples of their blocks, as a tensor of type ``to`` in the shape of the stored weight.

    The file holds ``[outputs, blocks, block]``. For a layer that stores its inputs first, it holds
    ``[blocks, block, outputs]``.
    """
    name, grid = layer.weight, quantized.grid
    assert grid.multiples is not None
    outputs, blocks = grid.multiples[:, :, 0].size, grid.multiples.shape[2]
    codes, multiples = (part.reshape(outputs, blocks, -1) for part in (quantized.codes, grid.multiples))
    if not layer.has_rows:  # the inputs come first
        codes, multiples = (np.moveaxis(part, 0, 2) for part in (codes, multiples))
    value = _cast(fragment, name, codes, bits, to)
    packed = fragment.codes(f"{name}_multiples_int4", multiples, 4)
    factor = fragment.node("Cast", f"{name}_multiples_cast", [packed], f"{name}_multiples", to=to)
    value = fragment.node("Mul", f"{name}_multiply", [value, factor], f"{name}_multiplied")
    shape = fragment.constant(f"{name}_shape", np.array(layer.weight_shape, np.int64))
    return fragment.node("Reshape", f"{name}_reshape", [value, shape], f"{name}_codes")


def rescaled_weight(
    layer: Linear,
    quantized: Quantized,
    storage: Storage,
    names: Names,
    narrowest: int = 2,
    *,
    by_output: bool = False,
) -> Fragment:
    """The weight-only form: codes as floats, times their scale per channel or per block of inputs.

    With ``by_output``, the file has the codes of each output in a row, see `output_rows`.
    """
    name, grid = layer.weight, quantized.grid
    fragment, result = Fragment(names), f"{name}_rescaled"
    bits = file_bits(grid.bits, storage, narrowest)
    if grid.per_channel:
        shape = layer.scale_shape
        scale, zeros = _per_channel(layer, grid.scale, shape), _per_channel(layer, grid.zero_point, shape)
    if grid.multiples is not None and bits < 8:
        value = _multiplied(fragment, layer, quantized, bits, TensorProto.FLOAT)
    elif by_output:
        codes_of_layer = _turned(fragment, layer, output_rows(fragment, layer, quantized))
        value = fragment.node("Cast", f"{name}_cast", [codes_of_layer], f"{name}_float", to=TensorProto.FLOAT)
    elif grid.per_channel:
        codes = layer.stored(grid.integers(quantized.codes))
        value = _cast(fragment, name, codes, bits, TensorProto.FLOAT)
    else:
        codes, scale, zeros = _blocks(quantized)
        value = _cast(fragment, name, codes, bits, TensorProto.FLOAT)
    if not grid.symmetric:
        zero_point = fragment.constant(f"{name}_zero_point", zeros.astype(np.float32))
        value = fragment.node("Sub", f"{name}_center", [value, zero_point], f"{name}_centered")
    factor = fragment.constant(f"{name}_scale", scale)
    last = result if grid.per_channel else f"{name}_scaled"
    value = fragment.node("Mul", f"{name}_rescale", [value, factor], last)
    if not grid.per_channel:
        _unblock(fragment, layer, value, codes.shape, result)
    return fragment


def _per_channel(layer: Linear, values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Values ``[g, o, 1]`` in the shape ``shape``."""
    if layer.op == "ConvTranspose" and layer.groups > 1:
        values = np.repeat(values[:, :, 0], layer.weight_shape[0] // layer.groups, axis=0)
    return values.reshape(shape)


def _blocks(quantized: Quantized) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Codes ``[g·o, b, block]`` with the last block zero-padded, scale and zero point ``[g·o, b, 1]``."""
    grid, (g, o, k) = quantized.grid, quantized.codes.shape
    block_size = grid.block_size or k
    blocks = grid.scale.shape[2]
    codes = np.pad(quantized.codes, ((0, 0), (0, 0), (0, blocks * block_size - k)))
    shape = (g * o, blocks, 1)
    return codes.reshape(g * o, blocks, block_size), grid.scale.reshape(shape), grid.zero_point.reshape(shape)


def _unblock(fragment: Fragment, layer: Linear, value: str, shape: tuple[int, ...], result: str) -> None:
    """Bring ``[g·o, b, block]`` back to the stored shape, as tensor ``result``."""
    name, (_, _, k) = layer.weight, layer.matrix_shape
    outputs, filled = shape[0], shape[1] * shape[2]
    if filled > k:
        flat = fragment.constant(f"{name}_padded_shape", np.array([outputs, filled], np.int64))
        value = fragment.node("Reshape", f"{name}_flatten", [value, flat], f"{name}_padded")
        crop = {"crop_start": 0, "crop_end": k, "crop_axis": 1}
        bounds = [fragment.constant(f"{name}_{key}", np.array([n], np.int64)) for key, n in crop.items()]
        value = fragment.node("Slice", f"{name}_crop", [value, *bounds], f"{name}_cropped")
    target = layer.weight_shape if layer.has_rows else (outputs, k)
    final = fragment.constant(f"{name}_shape", np.array(target, np.int64))
    value = fragment.node("Reshape", f"{name}_reshape", [value, final], result if layer.has_rows else f"{name}_rows")
    if not layer.has_rows:
        fragment.node("Transpose", f"{name}_transpose", [value], result, perm=[1, 0])
