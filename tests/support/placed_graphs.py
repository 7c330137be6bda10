"""Graphs of a few 1x1 convolutions, and what is quantized in them."""

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
    """A 1x1 convolution of 4 to 4 channels."""
    return node("Conv", [source, f"{name}.w"], [result], name=name)


def gemm(source: str, result: str, name: str = "fc") -> onnx.NodeProto:
    """A Gemm of 4 to 3 channels."""
    return node("Gemm", [source, f"{name}.w"], [result], name=name)


def graph_of(nodes: Sequence[onnx.NodeProto], constants: Constants | None = None, **options: Any) -> gs.Graph:
    """The nodes as a graph, weights of its layers that are not among the constants made up."""
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
    kept: Sequence[str] = (),
    **options: Any,
) -> Placement:
    """What is quantized of the nodes if all layers but those kept are."""
    graph = graph_of(nodes, constants, **options)
    return place(graph, rules, frozenset(linear_layers(graph)) - frozenset(kept))


def own(*names: str) -> dict[str, str]:
    """Tensors that each have a grid of their own."""
    return {name: name for name in names}
