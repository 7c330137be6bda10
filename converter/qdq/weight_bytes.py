"""Whether other bits of a weight would take more bytes in the file. It is found before the weight has codes."""

import numpy as np
from onnx import GraphProto

from converter.qdq.fragment import Names
from converter.qdq.layer_forms import bits_in_file, weight_form
from converter.qdq.three_bits import SIGN_TABLE
from converter.qdq.weights import Storage, fragment_bytes, is_small, smaller_storage
from passes.ir.linear import Linear
from passes.ir.model import Model, Quantized
from passes.numerics.grid import Grid

__all__ = ["stand_in", "takes_no_more"]


def stand_in(layer: Linear, bits: int, block_size: int | None, *, symmetric: bool, two_level: bool) -> Quantized:
    """Return codes of a form, without values: what they are does not change the bytes.

    Only an asymmetric grid whose zero points all happen to be 0 takes fewer.

    Args:
        layer: The layer.
        bits, block_size, symmetric, two_level: As in `passes.numerics.weight_grid.GridForm`.
    """
    groups, outputs, k = layer.matrix_shape
    blocks = 1 if block_size is None else -(-k // block_size)
    multiples = np.ones((groups, outputs, blocks), np.int8) if two_level and block_size is not None else None
    scales = 1 if multiples is not None else blocks
    scale = np.ones((groups, outputs, scales), np.float32)
    zero_point = np.full(scale.shape, 0 if symmetric else 1, np.int8)
    codes = np.zeros(layer.matrix_shape, np.int8)
    return Quantized(codes, Grid(bits, scale, zero_point, block_size, multiples), float("nan"))


def takes_no_more(model: Model, layer: Linear, more: Quantized, fewer: Quantized, storage: Storage) -> bool:
    """Whether a layer takes no more bytes with one form of codes than with another, each in its smallest form.

    Args:
        model: The model, whose layer has no codes yet.
        layer: The layer, or a weight of an LSTM, GRU or RNN.
        more, fewer: The forms of codes, see `stand_in`.
        storage: Storage form of the weights.
    """
    integers = model.reads_integers(layer)
    whole = storage == "dynamic" or (storage == "matmulnbits" and layer.op in {"Gemm", "MatMul"} and not integers)
    if whole or not is_small(fewer):
        after, before = (
            bits_in_file(model, layer, storage, each.grid.bits, block_size=each.grid.block_size)
            for each in (more, fewer)
        )
        return after <= before
    after, before = (_bytes(model, layer, each, storage, on_integers=integers) for each in (more, fewer))
    return after <= before


def _bytes(model: Model, layer: Linear, quantized: Quantized, storage: Storage, *, on_integers: bool) -> int:
    """Bytes of a small weight in its smallest form, if the file has the table that joins 3-bit codes anyway."""
    form, narrowest = weight_form(layer, quantized, storage, on_integers=on_integers), model.rules.narrowest
    smallest, names = smaller_storage(form, layer, quantized, storage, narrowest), Names(GraphProto())
    names.shared[SIGN_TABLE] = SIGN_TABLE
    return fragment_bytes(form(layer, quantized, smallest, names, narrowest))
