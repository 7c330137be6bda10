"""LSTM with int8 weights, whose activations are quantized in every step: DynamicQuantizeLSTM (com.microsoft).

An LSTM is no linear layer, so no pass gives it codes. They are made here, round to nearest on searched scales, one for
each row of a direction's weights. onnxruntime wants the weights as ``[directions, inputs, 4 * hidden]``, and scales and
zero points as ``[directions, 4 * hidden]``.
"""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from onnx import NodeProto, helper

from converter.qdq.fragment import Fragment, Names
from passes.ir.model import Model
from passes.ir.surgery import is_default_domain
from passes.numerics.error import sqnr_db
from passes.numerics.grid import Codes, Floats
from passes.numerics.weight_grid import GridForm

__all__ = ["RecurrentWeights", "dynamic_lstm", "recurrent_weights"]

_INPUTS = 8  # of ONNX's LSTM: X, W, R, B, lengths, initial h, initial c, peepholes
_FORM = GridForm(8)


@dataclass(frozen=True)
class RecurrentWeights:
    """Int8 weights of an LSTM.

    Attributes:
        codes: Codes of W and of R, each ``[directions, 4 * hidden, inputs]``.
        scales: Their scales, each ``[directions, 4 * hidden]``.
        sqnr_db: SQNR of both together.
    """

    codes: tuple[Codes, Codes]
    scales: tuple[Floats, Floats]
    sqnr_db: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of W and R side by side, ``[directions, 4 * hidden, inputs + hidden]``."""
        first, second = (codes.shape for codes in self.codes)
        return (*first[:2], first[2] + second[2])


def recurrent_weights(model: Model) -> dict[str, RecurrentWeights]:
    """Round the weights of every LSTM that the file can hold as int8, by the name of its node.

    Weights have to be constants of float32 and sequences have to come first. An excluded LSTM stays in float.
    """
    return {
        str(node.name): _rounded(*(np.asarray(constant.values, np.float32) for constant in node.inputs[1:3]))
        for node in model.graph.nodes
        if node.op == "LSTM" and node.name not in model.float_reasons and _is_usable(node)
    }


def _is_usable(node: gs.Node) -> bool:
    weights = node.inputs[1:3]
    constant = len(weights) == 2 and all(isinstance(weight, gs.Constant) for weight in weights)
    return is_default_domain(node) and not node.attrs.get("layout", 0) and constant and weights[0].dtype == np.float32


def _rounded(first: Floats, second: Floats) -> RecurrentWeights:
    grids = [_FORM.grid(weight) for weight in (first, second)]
    codes = [grid.codes(weight) for grid, weight in zip(grids, (first, second), strict=True)]
    values = [grid.values(each) for grid, each in zip(grids, codes, strict=True)]
    error = sqnr_db(np.concatenate([first, second], axis=2), np.concatenate(values, axis=2))
    scales = [grid.scale[..., 0] for grid in grids]
    return RecurrentWeights((codes[0], codes[1]), (scales[0], scales[1]), error)


def dynamic_lstm(node: NodeProto, weights: RecurrentWeights, names: Names) -> Fragment:
    """The node that replaces an LSTM, with its initializers."""
    fragment = Fragment(names)
    given = list(node.input) + [""] * (_INPUTS - len(node.input))
    for place, codes in enumerate(weights.codes, start=1):
        by_input = np.ascontiguousarray(codes.transpose(0, 2, 1))  # [directions, inputs, 4 * hidden]
        given[place] = fragment.codes(f"{node.input[place]}_int8", by_input, 8)
    for place, scale in enumerate(weights.scales, start=1):
        given.append(fragment.constant(f"{node.input[place]}_scale", scale.astype(np.float32)))
        given.append(fragment.constant(f"{node.input[place]}_zero_point", np.zeros(scale.shape, np.int8)))
    replaced = helper.make_node("DynamicQuantizeLSTM", given, list(node.output), name=node.name, domain="com.microsoft")
    replaced.attribute.extend(attribute for attribute in node.attribute if attribute.name != "layout")
    fragment.nodes.append(replaced)
    return fragment
