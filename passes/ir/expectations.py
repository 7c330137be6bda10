"""Layers that average a few constants by the probabilities of a softmax: the expected value of a distribution.

Detectors compute the distances to the sides of a box so (distribution focal loss, 16 bins with the weights 0 to 15),
stereo and depth networks a disparity, and pose networks the coordinates of a keypoint (soft-argmax). It is arithmetic,
not a filter: it has a handful of weights, and an error of one is an error of every result. On integers it would also
round the probabilities, and all logits before them.
"""

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from passes.ir.linear import Linear

__all__ = ["expected_values"]

_MOVING = frozenset({"Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"})
_MOST_VALUES = 4  # coordinates of one result; a layer of more outputs is a table that was learned


def expected_values(graph: gs.Graph, layers: Mapping[str, Linear]) -> list[str]:
    """Return the names of these layers, in the graph's order.

    Args:
        graph: The graph.
        layers: Its layers by name.
    """
    found = []
    for node in graph.nodes:
        layer = layers.get(str(node.name))
        if layer is None or any(size != 1 for size in layer.kernel) or layer.outputs > _MOST_VALUES:
            continue
        maker = _maker(node)
        while maker is not None and maker.op in _MOVING:
            maker = _maker(maker)
        if maker is not None and maker.op == "Softmax":
            found.append(layer.name)
    return found


def _maker(node: gs.Node) -> gs.Node | None:
    """Return the node that writes the first input of a node."""
    makers = node.inputs[0].inputs if node.inputs else []
    return makers[0] if makers else None
