"""ONNX models of a few nodes, and their outputs in onnxruntime."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from passes.ir.onnx_graph import export_graph

__all__ = ["array", "assert_same_outputs", "build", "node", "ops", "run"]

node = helper.make_node


def array(*shape: int, seed: int = 0) -> np.ndarray:
    """Return normally distributed float32 numbers."""
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def build(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, np.ndarray],
    shape: Sequence[int | str],
    *,
    opset: int = 17,
    outputs: Sequence[str] = ("y",),
    dtype: int = TensorProto.FLOAT,
    output_shape: Sequence[int | str] | None = None,
) -> onnx.ModelProto:
    """Make a checked model with input `x` of `shape`. `output_shape` is for outputs that onnx cannot infer."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [_output(name, dtype, output_shape) for name in outputs],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    del model.graph.output[:]
    model.graph.output.extend(inferred.graph.output)
    onnx.checker.check_model(model)
    return model


def _output(name: str, dtype: int, shape: Sequence[int | str] | None) -> onnx.ValueInfoProto:
    if shape is None:
        return onnx.ValueInfoProto(name=name)
    return helper.make_tensor_value_info(name, dtype, shape)


def run(model: onnx.ModelProto, x: np.ndarray | dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of onnxruntime without its graph optimizations. `x` is the first input, or all by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, x if isinstance(x, dict) else {session.get_inputs()[0].name: x})
    return outputs


def ops(graph: gs.Graph) -> list[str]:
    """Return the operators in the graph's order."""
    return [node.op for node in graph.nodes]


def assert_same_outputs(
    before: onnx.ModelProto, graph: gs.Graph, x: np.ndarray | dict[str, np.ndarray], tolerance: float = 1e-5
) -> None:
    """Check that the graph is valid ONNX with unique names and computes the same as `before`, relative to max|y|."""
    after = export_graph(graph)
    onnx.checker.check_model(after, full_check=True)
    names = [node.name for node in graph.nodes]
    assert len(set(names)) == len(names)
    assert [value.name for value in after.graph.output] == [value.name for value in before.graph.output]
    for expected, actual in zip(run(before, x), run(after, x), strict=True):
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype
        if expected.dtype == np.float32:
            assert np.abs(actual - expected).max(initial=0) <= tolerance * np.abs(expected).max(initial=0)
        else:
            np.testing.assert_array_equal(actual, expected)
