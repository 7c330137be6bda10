"""Replace a ConvTranspose whose stride equals its kernel with a 1x1 convolution and a shuffle of its outputs.

Such a ConvTranspose has no overlapping taps. Pixel (i, j) of channel o in the output block of input pixel (h, w) is
channel (i, j, o) of a 1x1 convolution at (h, w): Shi et al. 2016, arXiv:1609.05158. The shuffle has channels last, like
onnxruntime's integer convolutions. So its first and last Transpose cancel with those around it, and the one between
moves whole rows of (j, o). With channels first, shuffles took a third of U-Net's time.
"""

import math

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.normalise.shapes import Shapes
from passes.ir.rules import Rules
from passes.ir.surgery import fresh_name, is_default_domain, replace_node, tensor_names

__all__ = ["transposed_as_convolutions"]


def transposed_as_convolutions(graph: gs.Graph, rules: Rules, shapes: Shapes) -> list[str]:
    """Rewrite every such 2-D ConvTranspose of float32 with fixed height and width.

    Returns:
        A line for each.
    """
    if "ConvTranspose" in rules.linear or rules.why_no_kernel("Conv", 4, 1):
        return []
    if not {"Reshape", "Transpose"} <= rules.moving:
        return []
    notes = []
    tensors, names = tensor_names(graph), {node.name for node in graph.nodes}
    for node in list(graph.nodes):
        if node.op != "ConvTranspose" or not is_default_domain(node) or not isinstance(node.inputs[1], gs.Constant):
            continue
        weight = np.asarray(node.inputs[1].values)  # [c, o, kh, kw]
        sizes = shapes.get(node.inputs[0].name, ())[2:]
        if not _is_shuffle(node, weight.shape) or len(sizes) != 2 or not all(isinstance(n, int) for n in sizes):
            continue
        height, width = (int(n) for n in sizes if isinstance(n, int))
        inputs, outputs, rows, columns = weight.shape
        stored = weight.transpose(2, 3, 1, 0).reshape(rows * columns * outputs, inputs, 1, 1)
        name = node.name
        operands = [gs.Constant(fresh_name(f"{name}.weight_1x1", tensors), np.ascontiguousarray(stored))]
        if len(node.inputs) > 2 and isinstance(node.inputs[2], gs.Constant):
            bias = np.tile(np.asarray(node.inputs[2].values), rows * columns)
            operands.append(gs.Constant(fresh_name(f"{name}.bias_1x1", tensors), bias))

        def step(op: str, role: str, inputs: list[gs.Tensor], name: str = name, **attributes: object) -> gs.Node:
            result = gs.Variable(fresh_name(f"{name}_{role}", tensors), np.float32)
            own = name if op == "Conv" else fresh_name(f"{name}.{role}", names)
            return gs.Node(op, own, attributes, inputs=inputs, outputs=[result])

        def shape(role: str, *sizes: int, name: str = name) -> gs.Constant:
            return gs.Constant(fresh_name(f"{name}.{role}", tensors), np.array(sizes, np.int64))

        conv = step("Conv", "pixels", [node.inputs[0], *operands], kernel_shape=[1, 1])
        last = step("Transpose", "channels_last", [conv.outputs[0]], perm=[0, 2, 3, 1])
        blocks = shape("blocks", -1, height, width, rows, columns, outputs)
        split = step("Reshape", "split", [last.outputs[0], blocks])
        swapped = step("Transpose", "turned", [split.outputs[0]], perm=[0, 1, 3, 2, 4, 5])
        whole = shape("image", -1, height * rows, width * columns, outputs)
        joined = step("Reshape", "joined", [swapped.outputs[0], whole])
        first = step("Transpose", "channels_first", [joined.outputs[0]], perm=[0, 3, 1, 2])
        first.outputs = []
        replace_node(graph, node, conv, last, split, swapped, joined, first)
        notes.append(f"{name}: ConvTranspose replaced by a 1x1 Conv and a shuffle")
    return notes


def _is_shuffle(node: gs.Node, shape: tuple[int, ...]) -> bool:
    kernel = list(shape[2:])
    attributes = node.attrs
    plain = not any(attributes.get("pads", [])) and not any(attributes.get("output_padding", []))
    plain = plain and all(step == 1 for step in attributes.get("dilations", [])) and "output_shape" not in attributes
    bias = len(node.inputs) < 3 or isinstance(node.inputs[2], gs.Constant)
    own = attributes.get("auto_pad", "NOTSET") in {"NOTSET", "VALID"} and attributes.get("group", 1) == 1
    own = own and node.inputs[1].dtype == np.float32
    return len(kernel) == 2 and math.prod(kernel) > 1 and attributes.get("strides") == kernel and plain and own and bias
