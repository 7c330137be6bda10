"""Round the weights of LSTM, GRU and RNN: W and R, by the grid of the recipe's layer pass.

They are rounded to nearest. The inputs of R are the states inside of the operator, which no run shows, so GPTQ and its
like have no moments of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from converter.calibration.solving import block_of, rounding
from passes.base import LayerPass, Problem
from passes.ir.large_constants import copied
from passes.ir.model import FloatWeight, Model, Quantized, QuantizedRecurrent
from passes.ir.recurrent import (
    NO_FLOATS,
    GateWeight,
    Recurrent,
    readers_of_weights,
    recurrent_nodes,
    why_not_recurrent,
)
from passes.ir.surgery import fresh_name, graph_output_names, tensor_names
from passes.numerics.error import decibel
from passes.numerics.grid import Floats
from passes.report import Change

__all__ = ["restore_recurrent", "round_recurrent"]


def round_recurrent(model: Model, layer_pass: LayerPass, bits: Mapping[str, int]) -> dict[str, Change]:
    """Round the weights of LSTM, GRU and RNN nodes. Weights that they share are rounded once, with the most bits.

    Args:
        model: Changed in place. Weights become dequantized values, and `Model.recurrent` gets the codes. A node that
            the pass should quantize and cannot gets its reason in `Model.float_reasons`.
        layer_pass: The pass whose grid the weights get.
        bits: Bits of the weights, by the name of the node.

    Returns:
        What changed, for the report, by the name of the node.
    """
    if layer_pass.takes_recurrent:
        refused = {name: why_not_recurrent(node) for name, node in recurrent_nodes(model.graph).items()}
        model.float_reasons |= {
            name: why for name, why in refused.items() if why is not None and name not in model.float_reasons
        }
    if not model.rules.weight_only:
        model.float_reasons |= dict.fromkeys(bits, NO_FLOATS)
        return {}
    _untie(model, [layer for name, layer in model.recurrent_layers().items() if name in bits])
    layers = {name: layer for name, layer in model.recurrent_layers().items() if name in bits}
    floats = {name: _floats(model, each) for name, each in layers.items()}
    solved = {
        weight: _solved(model, layer_pass, readers, max(bits[reader.name] for reader in readers))
        for weight, readers in readers_of_weights(layers.values()).items()
    }
    changed = {}
    for name, layer in layers.items():
        first, second = (solved[weight.weight] for weight in layer.weights)
        model.recurrent[name] = QuantizedRecurrent((first.quantized, second.quantized), floats[name])
        changed[name] = _change((first, second))
    return changed


def restore_recurrent(network: Model, quantized: Mapping[str, QuantizedRecurrent]) -> None:
    """Give LSTM, GRU and RNN nodes the float weights that they had before they were quantized."""
    layers = network.recurrent_layers()
    floats = {
        layers[name].weights[index].weight: quantized[name].floats[index] for name in quantized for index in (0, 1)
    }
    for weight, readers in readers_of_weights(layers[name] for name in quantized).items():
        network.write_stored(readers, floats[weight].stored, [None] * len(readers))


@dataclass(frozen=True)
class _Solved:
    """The codes of one weight, the energy of its values and of the errors of plain rounding and of the codes."""

    quantized: Quantized
    what: str
    energies: tuple[float, float, float]


def _solved(model: Model, layer_pass: LayerPass, readers: Sequence[GateWeight], bits: int) -> _Solved:
    """Round one weight, and give it to all operands that read it."""
    weight, layer = model.weight(readers[0]), readers[0]
    block_size, why = block_of(layer_pass, layer, bits)
    solver = rounding(layer_pass)
    problem = Problem(layer, weight, None, bits, block_size, None, None)
    grid, plain = solver.grid_form(problem).grid(weight), solver.grid_form(problem).plain().grid(weight)
    codes = grid.codes(weight)
    before, after = (_energy(weight - each.values(each.codes(weight))) for each in (plain, grid))
    energies = _energy(weight), before, after
    model.write_codes(readers, codes, grid, [None] * len(readers))
    size = "per channel" if block_size is None else f"blocks of {block_size}"
    what = ", ".join(filter(None, (f"{bits} bits {size}", why)))
    return _Solved(Quantized(codes, grid, decibel(energies[0], after)), what, energies)


def _change(parts: tuple[_Solved, _Solved]) -> Change:
    """Return the change of a node, with the SQNR of both weights together."""
    signal, before, after = (sum(part.energies[index] for part in parts) for index in range(3))
    whats = dict.fromkeys(part.what for part in parts)
    what = (
        parts[0].what
        if len(whats) == 1
        else "; ".join(f"{name}: {part.what}" for name, part in zip("WR", parts, strict=True))
    )
    return Change(f"{what}, rounded to nearest", decibel(signal, before), decibel(signal, after))


def _energy(values: Floats) -> float:
    return float(np.sum(np.square(values, dtype=np.float64)))


def _floats(model: Model, layer: Recurrent) -> tuple[FloatWeight, FloatWeight]:
    first, second = layer.weights
    return model.float_weight(first), model.float_weight(second)


def _untie(model: Model, layers: Sequence[Recurrent]) -> None:
    """Give weights that another node reads, or that are graph outputs, a copy, which the nodes to quantize share."""
    outputs = graph_output_names(model.graph)
    for readers in readers_of_weights(layers).values():
        operands = [(model.node(reader.name), reader.operand) for reader in readers]
        constant = operands[0][0].inputs[operands[0][1]]
        if len(constant.outputs) > len(readers) or constant.name in outputs:
            own = copied(constant, fresh_name(f"{readers[0].name}.weight", tensor_names(model.graph)))
            for node, operand in operands:
                node.inputs[operand] = own
