"""The form that each layer gets in a file, and the bits that its codes take there."""

import math
from collections.abc import Callable

from converter.qdq.dynamic_lstm import is_dynamic_lstm
from converter.qdq.fragment import Fragment
from converter.qdq.matmul_nbits import block_bits
from converter.qdq.weights import (
    Storage,
    dequantized_bits,
    dequantized_weight,
    file_bits,
    rescaled_weight,
    smaller_storage,
)
from passes.ir.linear import Linear
from passes.ir.model import Model, Quantized
from passes.ir.recurrent import Recurrent

__all__ = [
    "bits_in_file",
    "is_matmul_nbits",
    "multiplies_integers",
    "narrowest_block",
    "recurrent_bits_in_file",
    "runs_on_integers",
    "weight_form",
]


def runs_on_integers(model: Model, layer: Linear) -> bool:
    """Whether the layer runs on integers: its input is quantized, and the target has an integer kernel for it."""
    return layer.name in model.quantized and model.reads_integers(layer)


def multiplies_integers(model: Model, layer: Linear, storage: Storage) -> bool:
    """Whether a layer's products are of integers: as in `runs_on_integers`, or with inputs that a run quantizes."""
    dynamic = storage == "dynamic" and layer.op in {"Gemm", "MatMul"} and layer.name not in model.tables()
    return runs_on_integers(model, layer) or (dynamic and layer.name in model.quantized)


def bits_in_file(
    model: Model,
    layer: Linear,
    storage: Storage,
    bits: int | None = None,
    *,
    block_size: int | None = None,
    smallest: bool = False,
) -> int:
    """Bits in the file of a layer's code. ONNX has no types of 3, 5, 6 or 7 bits.

    Args:
        model, layer, storage: The layer, and the storage form of the weights.
        bits: Bits of the codes. The default is the bits of the layer's grid.
        block_size: Inputs that will share a scale, for a layer without codes. None: all of a channel.
        smallest: As in `emit`. It is for the default bits.
    """
    if bits is None:
        quantized = model.quantized[layer.name]
        bits = quantized.grid.bits
        if smallest and not (storage in {"matmulnbits", "dynamic"} and is_matmul_nbits(model, layer)):
            storage = _smallest(model, layer, quantized, storage)
    if model.reads_integers(layer):
        return dequantized_bits(bits, math.prod(layer.matrix_shape), storage, model.rules.narrowest)
    if storage == "matmulnbits" and layer.op in {"Gemm", "MatMul"}:
        own = model.quantized.get(layer.name)
        return block_bits(bits, block_size if own is None else own.grid.block_size, narrowest_block(model, layer))
    return file_bits(bits, storage, model.rules.narrowest)


def recurrent_bits_in_file(model: Model, layer: Recurrent, storage: Storage, *, smallest: bool = False) -> int:
    """Bits in the file of a code of an LSTM, GRU or RNN, the most of W and R.

    Args:
        model, layer, storage: The node, which has codes, and the storage form of the weights.
        smallest: As in `emit`.
    """
    quantized = model.recurrent[layer.name]
    found = []
    for weight, part in zip(layer.weights, quantized.weights, strict=True):
        packed = not smallest or is_dynamic_lstm(layer, quantized, storage)
        stored = storage if packed else _smallest(model, weight, part, storage)
        found.append(file_bits(part.grid.bits, stored, model.rules.narrowest))
    return max(found)


def _smallest(model: Model, layer: Linear, quantized: Quantized, storage: Storage) -> Storage:
    form = weight_form(layer, quantized, storage, on_integers=runs_on_integers(model, layer))
    return smaller_storage(form, layer, quantized, storage, model.rules.narrowest)


def narrowest_block(model: Model, layer: Linear) -> int:
    """Return the fewest bits in MatMulNBits. Rows of a table are read from codes of a byte or half of one."""
    return max(4, model.rules.narrowest) if layer.name in model.tables() else model.rules.narrowest


def is_matmul_nbits(model: Model, layer: Linear) -> bool:
    """Whether a layer becomes MatMulNBits with storage ``matmulnbits``."""
    return layer.op in {"Gemm", "MatMul"} and not runs_on_integers(model, layer)


def weight_form(layer: Linear, quantized: Quantized, storage: Storage, *, on_integers: bool) -> Callable[..., Fragment]:
    """Return the form of a weight that is not in MatMulNBits."""
    dequantize = on_integers or (storage == "dequantize" and _one_axis(layer, quantized))
    return dequantized_weight if dequantize else rescaled_weight


def _one_axis(layer: Linear, quantized: Quantized) -> bool:
    """Whether the layer's scales lie along one axis of its stored weight, as DequantizeLinear requires."""
    return quantized.grid.block_size is None and not (layer.groups > 1 and layer.channel_axis == 1)
