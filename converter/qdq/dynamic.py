"""Gemm and MatMul whose activations are quantized in every run, with a range that is measured then (no calibration).

    x -> DynamicQuantizeLinear -> x codes, x scale, x zero point
    x codes, weight codes -> MatMulInteger -> Cast -> Mul(x scale * weight scale) [-> Add(bias)]

These are operators of ONNX itself. onnxruntime makes one MatMulIntegerToFloat of the second line. Layers that read the
same tensor share its codes. The range is that of the whole tensor, so the samples of a batch share it.
"""

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, helper

from converter.qdq.fragment import Fragment, Names
from converter.qdq.weights import int8_codes
from passes.ir.linear import Linear
from passes.ir.model import Quantized

__all__ = ["DynamicCodes", "dynamic_codes", "dynamic_matmul"]


@dataclass(frozen=True)
class DynamicCodes:
    """Names of what DynamicQuantizeLinear makes of a tensor: uint8 codes, and their scale and zero point of one run."""

    codes: str
    scale: str
    zero_point: str


def dynamic_codes(source: str, names: Names) -> tuple[Fragment, DynamicCodes]:
    """The node that quantizes a tensor when it runs."""
    fragment = Fragment(names)
    codes = fragment.node("DynamicQuantizeLinear", f"{source}_quantize", [source], f"{source}_quantized")
    scale, zero_point = (names.tensor(f"{source}_{what}") for what in ("scale", "zero_point"))
    fragment.nodes[-1].output.extend([scale, zero_point])
    return fragment, DynamicCodes(codes, scale, zero_point)


def dynamic_matmul(
    layer: Linear, quantized: Quantized, node: NodeProto, read: DynamicCodes, names: Names, bits: int, reader: int = 0
) -> Fragment:
    """The nodes that replace a Gemm or MatMul.

    Args:
        layer: The layer, without groups.
        quantized: Its codes, with one scale per output channel.
        node: Its node.
        read: Codes of its input.
        names: Names of the graph.
        bits: Bits of a code in the file. Fewer than 8 are unpacked when the model loads.
        reader: Number of the layer among those that share the weight. Every one gets a tensor of its own when the model
            loads, for the reason that `converter.qdq.weights.dequantized_weight` gives.
    """
    grid, name = quantized.grid, layer.name
    fragment = Fragment(names)
    by_input = np.ascontiguousarray(quantized.codes[0].T)  # [k, o]
    weight = int8_codes(fragment, layer.weight, f"by_input_{layer.view}", by_input, bits, reader)
    inputs = [read.codes, weight, read.zero_point]
    if not grid.symmetric:
        inputs.append(fragment.constant(f"{layer.weight}_zero_point", grid.zero_point.reshape(-1).astype(np.int8)))
    scale = fragment.shared(f"{layer.weight}_scale", grid.scale.reshape(-1))
    product = fragment.node("Mul", f"{name}_scales", [read.scale, scale], f"{name}_scale")  # [o]
    sums = names.tensor(f"{name}_sums")
    fragment.nodes.append(helper.make_node("MatMulInteger", inputs, [sums], name=node.name))
    floats = fragment.node("Cast", f"{name}_cast", [sums], f"{name}_float", to=TensorProto.FLOAT)
    bias = node.input[2] if len(node.input) > 2 else ""
    if bias:
        scaled = fragment.node("Mul", f"{name}_rescale", [floats, product], f"{name}_rescaled")
        fragment.node_into("Add", f"{name}_add", [scaled, bias], node.output[0])
    else:
        fragment.node_into("Mul", f"{name}_rescale", [floats, product], node.output[0])
    return fragment
