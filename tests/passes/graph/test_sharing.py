"""One weight that several nodes read: who shares it, and who gets a copy."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.graph.normalise.normalise import normalise
from passes.ir.linear import linear_layers
from passes.ir.ties import shared_with, tied_layers
from tests.support.graphs import array, assert_same_outputs, build, node

ROWS = (4, 6)


def normalised(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: tuple[int, ...] = ROWS
) -> gs.Graph:
    model = build(nodes, constants, shape)
    graph = gs.import_onnx(model)
    normalise(graph)
    assert_same_outputs(model, graph, array(*shape, seed=9))
    return graph


def weights(graph: gs.Graph) -> dict[str, str]:
    return {name: layer.weight for name, layer in linear_layers(graph).items()}


def test_a_gemm_and_a_matmul_read_the_same_matrix() -> None:
    nodes = [
        node("Gemm", ["x", "w", "b"], ["a"], "gemm"),
        node("MatMul", ["a", "w"], ["c"], "matmul"),
        node("Add", ["c", "b"], ["d"], "add"),
        node("Gemm", ["d", "w"], ["y"], "last"),
    ]
    graph = normalised(nodes, {"w": array(6, 6), "b": array(6)})
    assert weights(graph) == dict.fromkeys(["gemm", "matmul", "last"], "w")
    assert graph.nodes[0].inputs[2] is graph.nodes[1].inputs[2]  # the bias that matmul got from the Add is shared too


def test_a_transposed_reader_gets_a_copy() -> None:
    nodes = [
        node("Gemm", ["x", "w"], ["a"], "first"),
        node("Gemm", ["a", "w"], ["b"], "turned", transB=1),
        node("Gemm", ["b", "w"], ["c"], "third"),
        node("Gemm", ["c", "w"], ["y"], "turned2", transB=1),
    ]
    assert weights(normalised(nodes, {"w": array(6, 6)})) == {
        "first": "first.weight",
        "turned": "w",
        "third": "first.weight",
        "turned2": "w",
    }


def test_readers_that_are_no_layers_keep_the_original() -> None:
    nodes = [
        node("Gemm", ["x", "w"], ["a"], "first"),
        node("Gemm", ["a", "w"], ["b"], "second"),
        node("Mul", ["b", "row"], ["c"], "mul"),
        node("Gather", ["w", "row_index"], ["row"], "gather"),
        node("Relu", ["c"], ["y"], "relu"),
    ]
    constants = {"w": array(6, 6), "row_index": np.array([2])}
    nodes.insert(0, nodes.pop(3))
    graph = normalised(nodes, constants)
    assert set(weights(graph).values()) in ({"first.weight"}, {"w"})  # one copy for both; the Gather may be folded


def test_groups_and_kernels_must_agree() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"], "plain"),
        node("Conv", ["x", "w"], ["b"], "strided", strides=[2, 2]),
        node("GlobalAveragePool", ["a"], ["c"], "pool"),
        node("Conv", ["c", "w"], ["d"], "pooled"),
        node("Add", ["b", "d"], ["y"], "add"),
    ]
    graph = normalised(nodes, {"w": array(4, 4, 1, 1)}, (2, 4, 6, 6))
    assert set(weights(graph).values()) == {"w"}


def test_a_weight_or_bias_that_is_a_graph_output_keeps_its_values() -> None:
    nodes = [node("Gemm", ["x", "w", "b"], ["a"], "first"), node("Gemm", ["a", "w", "b"], ["y"], "second")]
    model = build(nodes, {"w": array(6, 6), "b": array(6)}, ROWS)
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in ("w", "b"))
    graph = gs.import_onnx(model)
    normalise(graph)
    assert set(weights(graph).values()) == {"first.weight"}  # one copy for both
    assert not {"w", "b"} & {tensor.name for layer in graph.nodes for tensor in layer.inputs}


@pytest.mark.parametrize(
    ("count", "said"), [(1, ""), (2, "weight shared with b"), (4, "weight shared with b and 2 more")]
)
def test_what_a_report_says(count: int, said: str) -> None:
    nodes = [node("Gemm", ["x" if not i else f"t{i - 1}", "w"], [f"t{i}"], "abcd"[i]) for i in range(count)]
    nodes[-1].output[0] = "y"
    ties = tied_layers(linear_layers(normalised(nodes, {"w": array(6, 6)})).values())
    assert shared_with("a", ties) == said
