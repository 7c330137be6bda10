"""A small residual network, and the same with a weight that spoils the codes of its layer."""

import onnx

from tests.support.graphs import array, build, node

__all__ = ["SHAPE", "residual", "with_outlier"]

SHAPE = (3, 12, 12)


def residual() -> onnx.ModelProto:
    """Two convolutions, a residual Add, a MaxPool and a Gemm."""
    nodes = [
        node("Conv", ["x", "w1"], ["a"], name="first", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"], name="relu"),
        node("Conv", ["b", "w2", "bias"], ["c"], name="second", pads=[1, 1, 1, 1]),
        node("Add", ["b", "c"], ["d"], name="add"),
        node("MaxPool", ["d"], ["e"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["e"], ["f"], name="flatten"),
        node("Gemm", ["f", "w3"], ["y"], name="head"),
    ]
    constants = {
        "w1": array(8, 3, 3, 3),
        "w2": 0.1 * array(8, 8, 3, 3, seed=1),
        "bias": array(8),
        "w3": array(288, 64, seed=2),
    }
    return build(nodes, constants, ["n", 3, 12, 12])


def with_outlier() -> onnx.ModelProto:
    """The same network. One weight of each filter of `second` is so large that the others have few codes."""
    model = residual()
    for tensor in model.graph.initializer:
        if tensor.name == "w2":
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[:, 0, 0, 0] = 30
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, "w2"))
    return model
