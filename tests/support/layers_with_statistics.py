"""Small graphs, and statistics of their layers' inputs, computed with numpy rather than onnxruntime."""

import numpy as np
import onnx_graphsurgeon as gs
from onnx import NodeProto

from passes.ir.model import Model
from passes.numerics.channels import ChannelStatistics
from passes.numerics.grid import Floats
from passes.numerics.moments import MomentsAccumulator
from passes.statistics import Stats
from tests.support.graphs import array, build, node
from tests.support.integer_rules import RULES

__all__ = ["depthwise_chain", "inputs_of", "perceptron", "second_layer_statistics"]


def perceptron(hidden: int = 16, outputs: int = 12, *, activation: str = "Relu") -> Model:
    """Make x [n, 10] -> first -> activation -> second -> y. The scales of hidden channels are heavy-tailed."""
    nodes = [
        node("Gemm", ["x", "first.w", "first.b"], ["h"], name="first", transB=1),
        node(activation, ["h"], ["k"], name="activation"),
        node("Gemm", ["k", "second.w"], ["y"], name="second", transB=1),
    ]
    spread = np.random.default_rng(0).lognormal(0, 1, (hidden, 1)).astype(np.float32)
    constants = {
        "first.w": array(hidden, 10) * spread,
        "first.b": array(hidden),
        "second.w": array(outputs, hidden),
    }
    return Model(gs.import_onnx(build(nodes, constants, ("N", 10))), RULES)


def depthwise_chain() -> Model:
    """Make expand 1x1 -> Relu -> depthwise 3x3 -> Relu -> project 1x1, as in a MobileNet."""
    nodes: list[NodeProto] = [
        node("Conv", ["x", "expand.w", "expand.b"], ["a"], name="expand"),
        node("Relu", ["a"], ["b"], name="relu1"),
        node("Conv", ["b", "deep.w", "deep.b"], ["c"], name="deep", group=8),
        node("Relu", ["c"], ["d"], name="relu2"),
        node("Conv", ["d", "project.w", "project.b"], ["y"], name="project"),
    ]
    constants = {
        "expand.w": array(8, 3, 1, 1),
        "expand.b": array(8),
        "deep.w": array(8, 1, 3, 3),
        "deep.b": array(8, seed=1),
        "project.w": array(4, 8, 1, 1),
        "project.b": array(4),
    }
    return Model(gs.import_onnx(build(nodes, constants, ("N", 3, 6, 6))), RULES)


def inputs_of(model: Model, rows: int = 400) -> Floats:
    """Return the inputs of the second layer of `perceptron`."""
    layer = model.layers()["first"]
    hidden = array(rows, 10, seed=7) @ model.weight(layer)[0].T + model.node("first").inputs[2].values
    positive: Floats = np.maximum(hidden, 0)
    return positive


def second_layer_statistics(x: Floats) -> Stats:
    """Return statistics of the second layer's rows."""
    channels = ChannelStatistics(x.shape[1])
    channels.update(x)
    moments = MomentsAccumulator(1, x.shape[1], cross=False)
    moments.update(x[None])
    return Stats(channels={"second": channels}, moments={"second": moments.moments()})
