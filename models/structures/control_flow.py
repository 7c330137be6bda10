"""Graphs with bodies: If, Loop and Scan, beside layers and around them."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.structures.build import I64, F, ints, layer_weights, make, n

__all__ = ["branches", "loop", "scan"]


def branches(name: str, *, nested: bool = False, shared: bool = False) -> Callable[[], onnx.ModelProto]:
    """Layers, then an If whose branches read tensors and constants of the outer graph."""

    def branch(op: str, output: str) -> onnx.GraphProto:
        nodes = [n(op, ["c1"], [f"{output}_a"]), n("Add", [f"{output}_a", "half"], [output])]
        if shared:
            nodes[0] = n("Conv", ["h", "w1"], [f"{output}_a"], pads=[1] * 4)
        return helper.make_graph(nodes, f"{op} branch", [], [helper.make_tensor_value_info(output, F, None)])

    def build() -> onnx.ModelProto:
        then, other = branch("Identity", "t"), branch("Neg", "e")
        if nested:
            inner = n("If", ["cond"], ["v"], then_branch=then, else_branch=other)
            then = helper.make_graph([inner], "outer then", [], [helper.make_tensor_value_info("v", F, None)])
            other = branch("Abs", "f")
        nodes = [
            n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
            n("Relu", ["c"], ["h"]),
            n("Conv", ["h", "w1"], ["c1"], name="second", pads=[1] * 4),
            n("ReduceMax", ["c1"], ["top"], keepdims=0),
            n("Greater", ["top", "limit"], ["cond"]),
            n("If", ["cond"], ["i"], name=name, then_branch=then, else_branch=other),
            n("Conv", ["i", "w2"], ["y"], name="last"),
        ]
        model = make(nodes, infer=False, limit=np.float32(0.5))
        model.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
        return model

    return build


def loop() -> onnx.ModelProto:
    """A Loop that adds a captured tensor three times."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [n("Add", ["state", "h"], ["next"]), n("Identity", ["go"], ["on"])],
        "body",
        [info("step", I64, []), info("go", TensorProto.BOOL, []), info("state", F, None)],
        [info("on", TensorProto.BOOL, []), info("next", F, None)],
    )
    nodes = [
        n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
        n("Relu", ["c"], ["h"]),
        n("Loop", ["count", "", "h"], ["m"], name="loop", body=body),
        n("Conv", ["m", "w1"], ["y"], name="last", pads=[1] * 4),
    ]
    return make(nodes, count=np.array(3, np.int64))


def scan() -> onnx.ModelProto:
    """A Scan over tokens with a running sum."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [n("Add", ["sum", "token"], ["total"]), n("Identity", ["total"], ["seen"])],
        "body",
        [info("sum", F, [16]), info("token", F, [16])],
        [info("total", F, [16]), info("seen", F, [16])],
    )
    nodes = [
        n("MatMul", ["x", "a"], ["h"], name="first"),
        n("Squeeze", ["h", "axis"], ["rows"]),
        n("Scan", ["start", "rows"], ["end", "all"], name="scan", body=body, num_scan_inputs=1),
        n("MatMul", ["all", "b"], ["y"], name="last"),
    ]
    weights = layer_weights(3)
    inputs = [info("x", F, [1, 6, 16])]
    return make(nodes, inputs, a=weights["m1"][:16], b=weights["m1"][16:], axis=ints(0), start=np.zeros(16, np.float32))
