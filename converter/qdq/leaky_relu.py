"""A LeakyRelu between 8-bit tensors, as the sum of two multiples of codes: alpha x + (1 - alpha) max(x, 0).

onnxruntime's LeakyRelu on integers looks every code up in a table. A Clip of codes at their zero point and an Add on
integers are 1.7 times as fast (`python -m benchmarks.leaky_relu`). Both multiples are other scales of the same codes.
So nothing is rounded in between, and results differ only where a value lies in the middle of two codes.

    codes -> DequantizeLinear(alpha s) ------------------------> Add -> the LeakyRelu's output
    codes -> Clip(zero point) -> DequantizeLinear((1 - alpha) s) ->
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import NodeProto, helper, numpy_helper

from converter.qdq.fragment import Fragment, Names
from converter.qdq.stored_weights import Tensors
from passes.ir.model import Model
from passes.ir.surgery import fresh_name, is_default_domain
from passes.numerics.grid import ActivationGrid

__all__ = ["leaky_relus", "leaky_sum", "slope", "sums_to_leaky_relus"]

_ALPHA = 0.01  # the operator's default
_TOLERANCE = 1e-5  # of scales that are float32


def leaky_relus(model: Model) -> frozenset[str]:
    """Return the names of the LeakyRelu nodes that are written as sums."""
    grids = model.activation_qparams

    def has_codes(tensor: gs.Tensor) -> bool:
        return tensor.name in grids and grids[tensor.name].bits == 8

    def behind_clamp(tensor: gs.Tensor) -> gs.Tensor:
        """The result of the clamp that alone reads the tensor, since the quantizer may take it over."""
        only = tensor.outputs[0] if len(tensor.outputs) == 1 else None
        return only.outputs[0] if only is not None and only.op in model.rules.absorbable else tensor

    return frozenset(
        str(node.name)
        for node in model.graph.nodes
        if node.op == "LeakyRelu"
        and model.rules.leaky_relu_as_sum
        and is_default_domain(node)
        and 0 < node.attrs.get("alpha", _ALPHA) < 1
        and has_codes(node.inputs[0])
        and (has_codes(node.outputs[0]) or has_codes(behind_clamp(node.outputs[0])))
    )


def slope(node: NodeProto) -> float:
    """Return the slope of a LeakyRelu below zero."""
    return float(next((attribute.f for attribute in node.attribute if attribute.name == "alpha"), _ALPHA))


def leaky_sum(node: NodeProto, codes: str, zero: str, grid: ActivationGrid, names: Names) -> Fragment:
    """Return the nodes that replace a LeakyRelu. The last of them writes the node's output under the node's name.

    Args:
        node: The LeakyRelu.
        codes: Tensor that holds the codes of its input.
        zero: Constant that holds their zero point.
        grid: Grid of these codes.
        names: Names of the graph.
    """
    fragment = Fragment(names)
    alpha, source = slope(node), node.input[0]
    positive = fragment.node("Clip", f"{node.name}.positive", [codes, zero], f"{source}_positive")
    terms = []
    for part, factor, read in (("all", alpha, codes), ("positive", 1 - alpha, positive)):
        scale = fragment.constant(f"{source}_{part}_scale", np.asarray(grid.scale * np.float32(factor), np.float32))
        dequantized = f"{source}_{part}_dequantized"
        terms.append(
            fragment.node("DequantizeLinear", f"{node.name}.dequantize_{part}", [read, scale, zero], dequantized)
        )
    fragment.nodes.append(helper.make_node("Add", terms, node.output, name=node.name))
    return fragment


@dataclass(frozen=True)
class _Sum:
    """A sum that stands for a LeakyRelu of the values that `quantize` rounds."""

    quantize: NodeProto
    alpha: float
    parts: tuple[NodeProto, NodeProto, NodeProto]  # the Clip and both DequantizeLinear


def sums_to_leaky_relus(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with a LeakyRelu in place of each such sum. A model without one is returned as it is."""
    tensors = Tensors.of(model.graph)
    readers = Counter(name for node in tensors.nodes for name in node.input)
    readers.update(value.name for value in model.graph.output)
    sums = {node.output[0]: found for node in model.graph.node if (found := _sum(node, tensors, readers)) is not None}
    if not sums:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    taken = {name for node in tensors.nodes for name in (*node.input, *node.output, node.name)}
    parts = {part.output[0] for found in sums.values() for part in found.parts}
    nodes: list[NodeProto] = []
    for node in result.graph.node:
        if node.output and node.output[0] in parts:
            continue
        if not node.output or node.output[0] not in sums:
            nodes.append(node)
            continue
        found = sums[node.output[0]]
        source = found.quantize.input[0]
        floats = fresh_name(f"{source}_dequantized", taken)
        name = fresh_name(f"{source}_dequantize", taken)
        inputs = [found.quantize.output[0], *found.quantize.input[1:]]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [floats], name=name))
        nodes.append(helper.make_node("LeakyRelu", [floats], node.output, name=node.name, alpha=found.alpha))
    result.graph.ClearField("node")
    result.graph.node.extend(nodes)
    return result


def _sum(node: NodeProto, tensors: Tensors, readers: Counter[str]) -> _Sum | None:
    makers = [tensors.makers.get(name) for name in node.input if node.op_type == "Add"]
    terms = [each for each in makers if each is not None and each.op_type == "DequantizeLinear"]
    if len(terms) != 2:
        return None
    for whole, positive in (terms, terms[::-1]):
        clip, quantize = tensors.makers.get(positive.input[0]), tensors.makers.get(whole.input[0])
        if clip is None or quantize is None or clip.op_type != "Clip" or quantize.op_type != "QuantizeLinear":
            continue
        scales = [_scalar(each.input[1], tensors) for each in (quantize, whole, positive)]
        zeros = [_scalar(name, tensors) for name in (*quantize.input[2:3], *whole.input[2:3], *positive.input[2:3])]
        bounds = [_scalar(name, tensors) for name in clip.input[1:]]
        alone = all(readers[each.output[0]] == 1 for each in (clip, whole, positive))
        if clip.input[0] != whole.input[0] or not alone or None in (*scales, *zeros, *bounds) or len(zeros) != 3:
            continue
        step, low, high = (float(scale) for scale in scales if scale is not None)
        if len({*zeros, *bounds}) == 1 and len(bounds) == 1 and abs(low + high - step) <= _TOLERANCE * step:
            return _Sum(quantize, float(f"{low / step:.6g}"), (clip, whole, positive))
    return None


def _scalar(name: str, tensors: Tensors) -> float | None:
    tensor = tensors.constants.get(name)
    if tensor is None:
        return None
    values = numpy_helper.to_array(tensor)
    return float(values.reshape(-1)[0]) if values.size == 1 else None
