"""Replace a Pad with zeros by the padding of the convolution that reads it.

TensorFlow's 'same' padding and PyTorch's F.pad are exported as Pad -> Conv. onnxruntime runs Pad in float between the
integer layers. The padding of the convolution itself costs nothing.
"""

import numpy as np
import onnx_graphsurgeon as gs

from passes.ir.surgery import is_default_domain, remove_node, replace_input, sole_consumer

__all__ = ["absorb_pads"]


def absorb_pads(graph: gs.Graph) -> list[str]:
    """Add a constant Pad with zeros along spatial axes to the pads of the only Conv that reads it.

    Returns:
        A line for each.
    """
    notes = []
    for node in [node for node in graph.nodes if node.op == "Pad" and is_default_domain(node)]:
        conv = sole_consumer(graph, node.outputs[0])
        pads = _spatial_zeros(node)
        if conv is None or conv.op != "Conv" or pads is None or conv.inputs[0] is not node.outputs[0]:
            continue
        own = conv.attrs.get("pads") or [0] * len(pads)
        if conv.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or len(own) != len(pads):
            continue
        conv.attrs.pop("auto_pad", None)
        conv.attrs["pads"] = [int(outer + inner) for outer, inner in zip(pads, own, strict=True)]
        replace_input(conv, node.outputs[0], node.inputs[0])
        notes.append(f"{node.name}: Pad moved into {conv.name}")
        remove_node(graph, node)
    return notes


def _spatial_zeros(node: gs.Node) -> list[int] | None:
    """Return the pads at the begins, then at the ends, of the spatial axes.

    The result is None if the node pads other axes, crops, or pads with anything but constant zeros.
    """
    if node.attrs.get("mode", "constant") != "constant":
        return None
    pads, *rest = node.inputs[1:] or [None]  # then the value and, from opset 18 on, the axes
    given = [tensor for tensor in rest if not tensor.is_empty()]
    if not isinstance(pads, gs.Constant) or any(not tensor.is_empty() for tensor in rest[1:]):
        return None
    if given and not (isinstance(given[0], gs.Constant) and not np.any(given[0].values)):
        return None
    begins, ends = pads.values.reshape(2, -1).tolist()  # [rank] each
    if len(begins) < 3 or any(begins[:2]) or any(ends[:2]) or min(*begins, *ends) < 0:
        return None
    return [*begins[2:], *ends[2:]]
