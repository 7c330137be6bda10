"""Graphs of old exporters: early opsets and IR versions, wrong shapes, sparse weights, functions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from models.structures.build import SIDE, Array, F, Value, between, floats, ints, layer_weights, make, n

__all__ = [
    "fixed_batch",
    "function",
    "nested_functions",
    "old",
    "resized",
    "sparse",
    "unsorted",
    "wrong_rank",
    "wrong_shapes",
]


def resized(op: str, opset: int, mode: str, scale: float) -> Callable[[], onnx.ModelProto]:
    """Build Upsample or Resize of an early opset."""
    if op == "Upsample" and opset < 9:
        return between(n("Upsample", ["h"], ["m"], mode=mode, scales=[1.0, 1.0, scale, scale]), opset=opset)
    return between(n(op, ["h", "s"], ["m"], mode=mode), opset=opset, s=floats(1, 1, scale, scale))


def old(ir: int) -> Callable[[], onnx.ModelProto]:
    """Build a classifier as the first exporters wrote it."""

    def build() -> onnx.ModelProto:
        rng = np.random.default_rng(2)
        ones = rng.uniform(0.5, 1.5, (4, 8)).astype(np.float32)
        nodes = [
            n("Conv", ["x", "w0"], ["c"], name="first", pads=[1] * 4),
            n("BatchNormalization", ["c", "g", "b", "mu", "var"], ["e"]),
            n("Relu", ["e"], ["h"]),
            n("Dropout", ["h"], ["d"], ratio=0.5),
            n("Reshape", ["w1flat", "shape"], ["w1r"]),
            n("Conv", ["d", "w1r"], ["f"], name="second", pads=[1] * 4),
            n("Clip", ["f"], ["k"], min=0.0, max=6.0),
            n("AveragePool", ["k"], ["p"], kernel_shape=[SIDE, SIDE]),
            n("Flatten", ["p"], ["q"]),
            n("Gemm", ["q", "fc", "bias"], ["z"], name="fc", transB=1),
            n("Softmax", ["z"], ["y"], axis=1),
        ]
        fc = layer_weights()["m0"][:10, :8]
        weights: dict[str, Any] = {"g": ones[0], "b": ones[1], "mu": 0.1 * ones[2], "var": ones[3]}
        return make(
            nodes,
            opset=8 if ir == 3 else 9,
            ir=ir,
            w1flat=layer_weights()["w1"].reshape(-1),
            shape=ints(8, 8, 3, 3),
            fc=fc,
            bias=0.1 * fc[:, 0],
            **weights,
        )

    return build


def wrong_shapes() -> onnx.ModelProto:
    """Build a model that declares wrong shapes, which onnxruntime accepts."""
    info = helper.make_tensor_value_info
    nodes = [
        n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
        n("Relu", ["c"], ["h"]),
        n("ReduceMean", ["h"], ["m"], axes=[2], keepdims=0),
        n("Transpose", ["m"], ["t"], perm=[2, 0, 1]),
        n("MatMul", ["t", "fc"], ["f"], name="fc"),
        n("Reshape", ["f", "shape"], ["y"]),
    ]
    model = make(
        nodes,
        None,
        [info("y", F, [1, "length"])],
        opset=12,
        ir=6,
        infer=False,
        fc=layer_weights()["m0"][:8],
        shape=ints(-1, 1, 32),
    )
    model.graph.value_info.append(info("h", F, [1, 5]))
    return model


def wrong_rank() -> onnx.ModelProto:
    """Build a model whose output has another rank than it declares, which only newer opsets can infer."""
    info = helper.make_tensor_value_info
    nodes = [
        n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
        n("Relu", ["c"], ["h"]),
        n("Transpose", ["h"], ["t"], perm=[3, 0, 1, 2]),
        n("Shape", ["t"], ["sizes"]),
        n("Gather", ["sizes", "zero"], ["steps"]),
        n("Unsqueeze", ["steps"], ["steps1"], axes=[0]),
        n("Mul", ["steps1", "two"], ["half"]),
        n("Concat", ["half", "rest"], ["rows"], axis=0),
        n("Reshape", ["t", "rows"], ["r"]),
        n("Gemm", ["r", "fc"], ["g"], name="fc"),
        n("Concat", ["steps1", "one", "rest"], ["shape"], axis=0),
        n("Reshape", ["g", "shape"], ["y"]),
    ]
    constants: dict[str, Any] = {"zero": np.array(0, np.int64), "two": ints(2), "one": ints(1), "rest": ints(-1)}
    fc = layer_weights()["m0"][: 8 * SIDE // 2].repeat(2, axis=0)[: 8 * SIDE // 2]
    outputs: list[Value | str] = [info("y", F, [1, "length"])]
    return make(nodes, None, outputs, opset=12, ir=6, infer=False, fc=fc, **constants)


def fixed_batch() -> onnx.ModelProto:
    """A batch of 1 that an exporter wrote into the shapes, and a Reshape that does not hold it."""
    info = helper.make_tensor_value_info
    nodes = [
        n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
        n("Relu", ["c"], ["h"]),
        n("Conv", ["h", "w1"], ["d"], name="last", pads=[1] * 4),
        n("Reshape", ["d", "shape"], ["y"]),
    ]
    inputs = [info("x", F, [1, 3, SIDE, SIDE])]
    return make(nodes, inputs, [info("y", F, [1, 8 * SIDE * SIDE])], shape=ints(1, -1))


def unsorted() -> onnx.ModelProto:
    """Build a model with its nodes in reverse order."""
    nodes = [
        n("Conv", ["h", "w1"], ["y"], name="last", pads=[1] * 4),
        n("Relu", ["c"], ["h"]),
        n("Conv", ["s", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
        n("Mul", ["x", "k"], ["s"]),
    ]
    return make(nodes, infer=False, k=np.float32(0.5))


def function() -> onnx.ModelProto:
    """Build a model with a function of its own."""
    body = helper.make_function(
        "own",
        "Swish",
        ["v"],
        ["o"],
        [n("Sigmoid", ["v"], ["g"]), n("Mul", ["v", "g"], ["o"])],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
        n("Swish", ["c"], ["h"], domain="own"),
        n("Conv", ["h", "w1"], ["y"], name="last", pads=[1] * 4),
    ]
    model = make(nodes, infer=False, domains=("own",))
    model.functions.append(body)
    return model


def nested_functions() -> onnx.ModelProto:
    """Build a model with a function that calls another one, in a branch of an If."""
    model = function()
    inner = n("Swish", ["u"], ["s"], domain="own")
    zero = n("Constant", [], ["zero"], value_float=0.0)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    nodes = [inner, zero, n("ReduceMax", ["s"], ["top"], keepdims=0), n("Greater", ["top", "zero"], ["yes"])]
    branches = [
        helper.make_graph([n(op, ["s"], [op])], op, [], [helper.make_tensor_value_info(op, F, None)])
        for op in ("Identity", "Neg")
    ]
    nodes.append(n("If", ["yes"], ["r"], then_branch=branches[0], else_branch=branches[1]))
    model.functions.append(helper.make_function("own", "Turned", ["u"], ["r"], nodes, imports))
    model.graph.node[1].op_type = "Turned"
    return model


def sparse() -> onnx.ModelProto:
    """Build a model with a sparse weight and a sparse constant, three of four values of which are zeros."""
    nodes = [
        n("Constant", [], ["scale"], sparse_value=_sparse("", layer_weights()["b0"].reshape(8, 1, 1))),
        n("Conv", ["x", "w0"], ["c"], name="first", pads=[1] * 4),
        n("Add", ["c", "scale"], ["d"]),
        n("Relu", ["d"], ["h"]),
        n("Conv", ["h", "w1"], ["y"], name="last", pads=[1] * 4),
    ]
    model = make(nodes, infer=False)
    dense = next(tensor for tensor in model.graph.initializer if tensor.name == "w1")
    model.graph.initializer.remove(dense)
    model.graph.sparse_initializer.append(_sparse("w1", layer_weights()["w1"]))
    return model


def _sparse(name: str, values: Array) -> onnx.SparseTensorProto:
    """Keep each fourth value."""
    indices = np.arange(0, values.size, 4)
    kept = np.ascontiguousarray(values.reshape(-1)[indices])
    return helper.make_sparse_tensor(
        numpy_helper.from_array(kept, name), numpy_helper.from_array(indices, f"{name} at"), values.shape
    )
