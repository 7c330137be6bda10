"""Graphs of a few 1x1 convolutions, and their quantized tensors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.activations.placement import Placement, place
from passes.ir.linear import linear_layers
from passes.ir.rules import Rules
from tests.support.graphs import array, build, node
from tests.support.integer_rules import RULES

__all__ = ["IMAGE", "INFINITY", "POOL", "Constants", "conv", "gemm", "graph_of", "own", "placed"]

Constants = dict[str, np.ndarray]
IMAGE = (1, 4, 8, 8)
INFINITY = float("inf")
POOL: dict[str, Any] = {"kernel_shape": [2, 2]}


def conv(source: str, result: str, name: str) -> onnx.NodeProto:
    """Make a 1x1 convolution from 4 to 4 channels."""
    return node("Conv", [source, f"{name}.w"], [result], name=name)


def gemm(source: str, result: str, name: str = "fc") -> onnx.NodeProto:
    """Make a Gemm from 4 to 3 channels."""
    return node("Gemm", [source, f"{name}.w"], [result], name=name)


def graph_of(nodes: Sequence[onnx.NodeProto], constants: Constants | None = None, **options: Any) -> gs.Graph:
    """Make a graph of the nodes. Weights that are not among the constants are random."""
    values = dict(constants or {})
    shape = options.pop("shape", IMAGE)
    for item in nodes:
        if item.op_type in {"Conv", "ConvTranspose"} and item.input[1] not in values:
            values[item.input[1]] = array(4, 4, 1, 1)
        if item.op_type == "Gemm" and item.input[1] not in values:
            values[item.input[1]] = array(4, 3)
    return gs.import_onnx(build(nodes, values, shape, **options))


def placed(
    nodes: Sequence[onnx.NodeProto],
    constants: Constants | None = None,
    rules: Rules = RULES,
    float_layers: Sequence[str] = (),
    **options: Any,
) -> Placement:
    """Return the placement if all layers except ``float_layers`` are quantized."""
    graph = graph_of(nodes, constants, **options)
    return place(graph, rules, frozenset(linear_layers(graph)) - frozenset(float_layers))


def own(*names: str) -> dict[str, str]:
    """Return tensors that each have their own grid."""
    return {name: name for name in names}
