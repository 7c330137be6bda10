"""Gemm and MatMul on integers before operators with which onnxruntime would fuse them in float.

Their weights would then be dequantized on every run. Each file here computes what the model means, and the graph that
onnxruntime makes of it has integer operators, and none that computes a weight.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from converter.pipeline.convert import convert
from converter.qdq.stored_weights import Tensors, find_weight, layer_roles
from converter.recipes.builtin import find_recipe
from converter.runtime.optimized_graph import OptimizedGraph
from passes.graph.exclude import Exclude
from passes.numerics.error import sqnr_db
from tests.support.graphs import array, build, node
from tests.support.networks import run

K = 32
CONSTANTS: dict[str, NDArray[Any]] = {
    "w": array(K, K) / 6,
    "b": array(K),
    "b_row": array(1, K),
    "s": np.abs(array(K)),
    "zero": np.zeros((), np.float32),
    "one": np.ones((), np.float32),
}
RELU = [node("Relu", ["a"], ["r"], name="relu"), node("Mul", ["r", "s"], ["y"], name="last")]


def network(nodes: Sequence[onnx.NodeProto], shape: Sequence[int | str], **options: Any) -> onnx.ModelProto:
    used = {name for each in nodes for name in each.input}
    constants = {name: values for name, values in CONSTANTS.items() if name in used}
    return build([onnx.NodeProto.FromString(each.SerializeToString()) for each in nodes], constants, shape, **options)


def operators(model: onnx.ModelProto) -> list[str]:
    """Return the operators that onnxruntime runs. Fail if it computes the weight of a layer on every run."""
    runtime, tensors = OptimizedGraph.open(model), Tensors.of(model.graph)
    assert runtime.graph is not None
    layers = [each for each in tensors.nodes if layer_roles(each) is not None]
    assert not [each.name for each in layers if runtime.dequantizes_every_run(find_weight(each, tensors))]
    return [each.op_type for each in runtime.graph.nodes]


def converted(model: onnx.ModelProto, x: NDArray[np.float32], recipe: str = "int8") -> onnx.ModelProto:
    """Convert a model, and require that its file computes the same."""
    quantized = convert(model, x, recipe=recipe).model
    assert sqnr_db(run(model, x[:1])[0], run(quantized, x[:1])[0]) > (30 if recipe == "int8" else 13)
    return quantized


@pytest.mark.parametrize("recipe", ["int8", "int4"])
@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
@pytest.mark.parametrize("bounds", [None, ["zero", "one"], ["zero", ""], ["", "one"], ["", ""]])
def test_a_clamp_before_floats_is_not_fused(op: str, bounds: list[str] | None, recipe: str) -> None:
    clamp = node("Relu", ["a"], ["r"], name="c") if bounds is None else node("Clip", ["a", *bounds], ["r"], name="c")
    nodes = [node(op, ["x", "w"], ["a"], name="fc"), clamp, node("Mul", ["r", "s"], ["y"], name="last")]
    assert "QGemm" in operators(converted(network(nodes, ["n", K]), array(64, K), recipe))


def test_the_result_of_the_layer_is_not_rounded_for_the_clamp() -> None:
    nodes = [node("MatMul", ["x", "w"], ["a"], name="fc"), *RELU]
    quantized = convert(network(nodes, ["n", 4, K]), array(64, 4, K)).model
    assert sum(each.op_type == "QuantizeLinear" for each in quantized.graph.node) == 1
    assert [each.op_type for each in quantized.graph.node][-2:] == ["Max", "Mul"]


def test_a_clamp_whose_bound_is_computed() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="fc"),
        node("ReduceMax", ["x"], ["most"], name="most", keepdims=0),
        node("Clip", ["a", "zero", "most"], ["r"], name="clip"),
        node("Erf", ["r"], ["y"], name="erf"),
    ]
    assert "MatMulIntegerToFloat" in operators(converted(network(nodes, ["n", 4, K]), array(64, 4, K)))


@pytest.mark.parametrize("operands", [("a", "b"), ("b", "a"), ("a", "b_row")])
@pytest.mark.parametrize("shape", [(1, 4, K), ("n", 4, K), (1, 2, 4, K)])
def test_an_added_bias_has_as_many_axes_as_the_product(shape: tuple[int | str, ...], operands: tuple[str, str]) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="fc"),
        node("Add", operands, ["sum"], name="add"),
        node("Erf", ["sum"], ["y"], name="erf"),
    ]
    model = network(nodes, shape)
    quantized = converted(model, array(64, *(size for size in shape[1:] if isinstance(size, int))))
    assert "MatMulIntegerToFloat" in operators(quantized)
    (add,) = (each for each in quantized.graph.node if each.op_type == "Add")
    biases = [tensor for tensor in quantized.graph.initializer if tensor.name in add.input]
    assert [list(tensor.dims) for tensor in biases] == [[1] * (len(shape) - 1) + [K]]


def test_a_bias_that_other_nodes_read_keeps_its_shape_for_them() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="fc"),
        node("Add", ["a", "b"], ["sum"], name="add"),
        node("Mul", ["sum", "b"], ["y"], name="mul"),
    ]
    converted(network(nodes, (1, 4, K)), array(64, 4, K))


def test_a_layer_left_in_float_keeps_its_bias() -> None:
    """In float, the Gemm that onnxruntime makes of the two is faster."""
    nodes = [node("MatMul", ["x", "w"], ["a"], name="fc"), node("Add", ["a", "b"], ["y"], name="add")]
    left = find_recipe("int8").with_pass(Exclude(("fc",)))
    quantized = convert(network(nodes, (1, 4, K)), array(64, 4, K), recipe=left).model
    assert [list(tensor.dims) for tensor in quantized.graph.initializer if tensor.name == "b"] == [[K]]


def test_a_gemm_before_a_transpose() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="fc"),
        node("Transpose", ["a"], ["t"], name="turn"),
        node("Erf", ["t"], ["y"], name="erf"),
    ]
    assert "QGemm" in operators(converted(network(nodes, ["n", K]), array(64, K)))


def test_a_layer_that_is_not_fused_all_the_same_runs_in_float(caplog: pytest.LogCaptureFixture) -> None:
    """onnxruntime also makes a Gemm of a MatMul and a computed vector behind it."""
    nodes = [
        node("ReduceMean", ["x"], ["v"], name="mean", axes=[0, 1], keepdims=0),
        node("MatMul", ["x", "w"], ["a"], name="fc"),
        node("Add", ["a", "v"], ["sum"], name="add"),
        node("Erf", ["sum"], ["y"], name="erf"),
    ]
    result = convert(network(nodes, (1, 4, K)), array(64, 4, K))
    assert not {"QGemm", "MatMulIntegerToFloat", "QuantizeLinear"} & set(operators(result.model))
    (layer,) = result.layers
    assert (layer.bits, layer.stored_bits, layer.activation_bits) == (8, 8, 32)
    assert "onnxruntime fuses no integer operator here" in layer.note
    assert "fc: onnxruntime would dequantize the weight on every run; the layer runs in float" in caplog.text
