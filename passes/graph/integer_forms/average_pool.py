"""Replace an AveragePool between integers with a depthwise convolution of equal weights.

Every weight is 1 / taps, so it is exactly on the grid of its channel, for any number of bits. QLinearAveragePool of
onnxruntime computes in floats, and took 25 times as long as the depthwise kernel of QLinearConv.
"""

import math
from collections.abc import Container

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.normalise.shapes import Shapes
from passes.ir.rules import Rules
from passes.ir.surgery import fresh_name, is_default_domain, replace_node, tensor_names

__all__ = ["averages_as_convolutions"]

_TAPS = 64  # a larger window is a mean of the whole image, and its weights would be large


def averages_as_convolutions(graph: gs.Graph, rules: Rules, shapes: Shapes, integer: Container[str]) -> list[str]:
    """Rewrite AveragePools that divide every sum by the size of the window.

    Args:
        graph: The graph.
        rules: Rules of the target. Only where channels come last on integers is the convolution faster.
        shapes: Shapes of the graph's tensors.
        integer: Names of the nodes that stand between integers. The others stay.

    Returns:
        A line for each.
    """
    notes = []
    taken = tensor_names(graph)
    for node in list(graph.nodes) if rules.channels_last else ():
        if node.op != "AveragePool" or node.name not in integer or not is_default_domain(node):
            continue
        source, kernel = node.inputs[0], [int(size) for size in node.attrs["kernel_shape"]]
        shape = shapes.get(source.name, ())
        channels = shape[1] if len(shape) == 2 + len(kernel) else None
        if not isinstance(channels, int) or not _is_convolution(node, kernel):
            continue
        if rules.why_no_kernel("Conv", len(shape), channels):
            continue
        weight = np.full((channels, 1, *kernel), 1 / math.prod(kernel), np.float32)
        constant = gs.Constant(fresh_name(f"{node.name}.weight_mean", taken), weight)
        kept = {name: node.attrs[name] for name in ("strides", "pads") if name in node.attrs}
        attributes = {"kernel_shape": kernel, "group": channels, **kept}
        replace_node(graph, node, gs.Node("Conv", node.name, attributes, inputs=[source, constant]))
        notes.append(f"{node.name}: AveragePool made a depthwise Conv")
    return notes


def _is_convolution(node: gs.Node, kernel: list[int]) -> bool:
    """Return whether a pool has a window of fixed size and weight at every place."""
    attributes = node.attrs
    padded = any(attributes.get("pads", ())) and not attributes.get("count_include_pad", 0)
    plain = attributes.get("auto_pad", "NOTSET") in {"NOTSET", "VALID"} and not attributes.get("ceil_mode", 0)
    undilated = all(step == 1 for step in attributes.get("dilations", ()))
    return plain and undilated and not padded and 1 < math.prod(kernel) <= _TAPS
