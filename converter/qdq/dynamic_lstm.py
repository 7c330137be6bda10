"""LSTM with int8 weights, whose activations are quantized in every step: DynamicQuantizeLSTM (com.microsoft).

onnxruntime wants the weights as ``[directions, inputs, 4 * hidden]``, and scales and zero points as
``[directions, 4 * hidden]``. It has no such operator for GRU and RNN.
"""

from collections import Counter

import numpy as np
from onnx import NodeProto, helper

from converter.qdq.fragment import Fragment, Names
from converter.qdq.storage import stored_bits
from converter.qdq.weights import Storage, int8_codes
from passes.ir.model import QuantizedRecurrent
from passes.ir.recurrent import Recurrent

__all__ = ["DYNAMIC_LSTM", "dynamic_lstm", "is_dynamic_lstm"]

DYNAMIC_LSTM = "DynamicQuantizeLSTM"

_INPUTS = 8  # of ONNX's LSTM: X, W, R, B, lengths, initial h, initial c, peepholes


def is_dynamic_lstm(layer: Recurrent, quantized: QuantizedRecurrent, storage: Storage) -> bool:
    """Whether a node becomes a DynamicQuantizeLSTM: an LSTM with sequences first and a scale for each row."""
    grids = [weight.grid for weight in quantized.weights]
    rows = all(grid.per_channel and grid.multiples is None and grid.symmetric for grid in grids)
    return storage == "dynamic" and layer.op == "LSTM" and not layer.batch_first and rows


def dynamic_lstm(
    node: NodeProto,
    layer: Recurrent,
    quantized: QuantizedRecurrent,
    names: Names,
    readers: Counter[str],
    narrowest: int = 2,
) -> Fragment:
    """The node that replaces an LSTM, with its initializers.

    Args:
        node, layer, quantized: The node and its weights.
        names: Names of the graph.
        readers: Number of operands that read each weight so far, by its name. Those of this node are added. Every one
            gets a tensor of its own when the model loads, for the reason that
            `converter.qdq.weights.dequantized_weight` gives.
        narrowest: Bits of the target's smallest integer type. Fewer than 8 are unpacked when the model loads.
    """
    fragment = Fragment(names)
    given = list(node.input) + [""] * (_INPUTS - len(node.input))
    scales: list[str] = []
    for weight, part in zip(layer.weights, quantized.weights, strict=True):
        bits = max(stored_bits(part.grid.bits), narrowest)
        by_input = np.ascontiguousarray(part.codes.swapaxes(1, 2))  # [g, k, o]
        reader = readers[weight.weight]
        given[weight.operand] = int8_codes(fragment, weight.weight, "by_input", by_input, bits, reader)
        readers[weight.weight] += 1
        scale = part.grid.scale[..., 0]
        scales.append(fragment.shared(f"{weight.weight}_scale", scale))
        scales.append(fragment.constant(f"{weight.weight}_zero_point", np.zeros(scale.shape, np.int8)))
    replaced = helper.make_node(
        DYNAMIC_LSTM, [*given, *scales], list(node.output), name=node.name, domain="com.microsoft"
    )
    replaced.attribute.extend(attribute for attribute in node.attribute if attribute.name != "layout")
    fragment.nodes.append(replaced)
    return fragment
