"""Bits that layers get for no bytes, because the file stores their codes in a wider type (`LayerPass.stored_bits`).

ONNX has no types of 3, 5, 6 or 7 bits, and a small layer is stored as int8 where the nodes that unpack its codes would
take more bytes than packing saves. The bits are found before any layer is solved: what codes take does not depend on
their values.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TypeVar

from converter.calibration.solving import block_of
from converter.qdq.weight_bytes import stand_in, takes_no_more
from converter.qdq.weights import Storage
from passes.base import LayerPass
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.ir.recurrent import tied_recurrent
from passes.ir.selectors import by_layer
from passes.ir.ties import tied_layers

__all__ = ["with_stored_bits"]

_WIDER = (8, 4)  # the most bits that each type holds
_ON_INTEGERS = (7, 4)  # two products of 8 bits can saturate kernels without VNNI, and a file of fewer bits cannot

Solver = TypeVar("Solver", bound=LayerPass)


def with_stored_bits(layer_pass: Solver, model: Model, storage: Storage) -> tuple[Solver, tuple[str, ...]]:
    """Return the pass with more bits in `LayerPass.layer_bits`, where they take no more bytes, and a note of them.

    Layers that `layer_bits` selects keep their bits, and so does the weight of a layer that is an embedding table too.

    Args:
        layer_pass: The pass. Without its field `stored_bits`, it stays as it is.
        model: The model that it will solve.
        storage: Storage form of the weights in the file.
    """
    if not layer_pass.stored_bits:
        return layer_pass, ()
    layers, recurrent, tables = model.layers_to_quantize(), model.recurrent_layers(), model.tables()
    kept = {*by_layer(layer_pass.layer_bits, model.graph, [*layers, *recurrent], "layer_bits", model.selected), *tables}
    bits = layer_pass.bits_of(layers, model.graph, tables, model.selected)
    ties = tied_layers(layers.values())
    found: dict[str, int] = {}
    for names in dict.fromkeys(ties.get(name, (name,)) for name in layers):
        if kept.isdisjoint(names):
            members = [layers[name] for name in names]
            found |= dict.fromkeys(names, _widest(layer_pass, model, members, bits[names[0]], storage))
    of_recurrent = layer_pass.bits_of_recurrent(model)
    for names in tied_recurrent(recurrent[name] for name in of_recurrent):
        if kept.isdisjoint(names):
            weights = [weight for name in names for weight in recurrent[name].weights]
            found |= dict.fromkeys(names, _widest(layer_pass, model, weights, of_recurrent[names[0]], storage))
    bits |= of_recurrent
    more = {name: count for name, count in found.items() if count > bits[name]}
    if not more:
        return layer_pass, ()
    note = f"{len(more)} of {len(bits)} layers use all bits of the type that stores them: {_counted(more.values())}"
    return dataclasses.replace(layer_pass, layer_bits={**layer_pass.layer_bits, **more}), (note,)


def _widest(layer_pass: LayerPass, model: Model, members: Sequence[Linear], bits: int, storage: Storage) -> int:
    """Return the most bits with which none of these weights takes more bytes than with ``bits``."""
    integers = storage == "dynamic" or any(model.reads_integers(member) for member in members)
    for more in _ON_INTEGERS if integers else _WIDER:
        if more > bits and all(_takes_no_more(layer_pass, model, each, more, bits, storage) for each in members):
            return more
    return bits


def _takes_no_more(layer_pass: LayerPass, model: Model, layer: Linear, more: int, fewer: int, storage: Storage) -> bool:
    after, before = (
        stand_in(
            layer,
            bits,
            block_of(layer_pass, layer, bits)[0],
            symmetric=layer_pass.symmetric,
            two_level=layer_pass.two_level,
        )
        for bits in (more, fewer)
    )
    return takes_no_more(model, layer, after, before, storage)


def _counted(bits: Iterable[int]) -> str:
    """Return how many layers have each number of bits, such as "4 bits in 3, 7 bits in 12"."""
    every = list(bits)
    return ", ".join(f"{count} bits in {every.count(count)}" for count in sorted(set(every)))
