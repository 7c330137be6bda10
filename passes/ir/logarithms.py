"""Layers before a logarithm, which needs the relative precision of small values: no 8-bit grid has it.

A signal front end is a chain of such layers: low-pass filters and filter banks on the raw waveform, then powers, sums,
and a logarithm. On a grid of 255 steps, everything below 1/255 of the loudest sample becomes 0 or one step. The
logarithm makes a large error of it, and no later layer can undo that.
"""

from collections.abc import Collection

import onnx_graphsurgeon as gs

__all__ = ["layers_before_logarithms"]

_BOUNDED = frozenset(
    {"Celu", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "LogSoftmax", "Mish", "PRelu"}
    | {"Relu", "Selu", "Sigmoid", "Softmax", "Softplus", "Softsign", "Swish", "Tanh", "ThresholdedRelu"}
)
"""Activation functions. What lies before them is a network with activations of its own, not a front end."""


def layers_before_logarithms(graph: gs.Graph, layers: Collection[str]) -> list[str]:
    """Return the names of the layers from which a Log is reached without an activation function, in the graph's order.

    Args:
        graph: The graph.
        layers: Names of the layers that would run on integers.
    """
    waiting = [node for node in graph.nodes if node.op == "Log"]
    reached: set[int] = {id(node) for node in waiting}
    while waiting:
        node = waiting.pop()
        for tensor in node.inputs:
            for maker in tensor.inputs:
                if id(maker) not in reached and maker.op not in _BOUNDED:
                    reached.add(id(maker))
                    waiting.append(maker)
    return [str(node.name) for node in graph.nodes if id(node) in reached and node.name in layers]
