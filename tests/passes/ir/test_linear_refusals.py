"""Nodes that are linear layers, nodes that are not, and inputs that do not fit a layer."""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto

from passes.errors import QuantizationError
from passes.ir.linear import Linear, find_linear, linear_layers, refused_layers, why_not_linear
from tests.support.graphs import array, build, node
from tests.support.one_layer import convolution, first_node, layer_of


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 8), (2, 3, 8, 8, 8)])
def test_an_input_with_other_axes_is_refused(shape: tuple[int, ...]) -> None:
    layer, _, _ = layer_of(convolution("Conv", (4, 3, 3, 3), (2, 3, 8, 8), None))
    with pytest.raises(
        QuantizationError, match=r"layer: input of shape \(2, 3.*\) for a weight of shape \(4, 3, 3, 3\)"
    ):
        layer.rows(np.zeros(shape, np.float32))


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_an_input_of_another_length_is_refused(op: str) -> None:
    layer, _, _ = layer_of(build([node(op, ["x", "w"], ["y"], name="layer")], {"w": array(7, 4)}, (5, 7)))
    with pytest.raises(
        QuantizationError, match=r"layer: input of shape \(5, 6\) does not end in the weight's 7 inputs"
    ):
        layer.rows(np.zeros((5, 6), np.float32))


def test_an_input_with_other_channels_is_refused() -> None:
    layer, _, _ = layer_of(convolution("Conv", (4, 3, 3, 3), (2, 3, 8, 8), None))
    with pytest.raises(QuantizationError, match=r"layer: input of shape \(2, 5, 8, 8\)"):
        layer.rows(np.zeros((2, 5, 8, 8), np.float32))


def variable(name: str) -> gs.Variable:
    return gs.Variable(name, np.float32)


def constant(name: str, *shape: int, dtype: Any = np.float32) -> gs.Constant:
    return gs.Constant(name, np.ones(shape, dtype))


def made(op: str, *inputs: gs.Tensor, **attributes: Any) -> gs.Node:
    return gs.Node(op, "layer", attrs=attributes, inputs=list(inputs), outputs=[variable("y")])


REFUSED = {
    "two_activations": (made("MatMul", variable("a"), variable("b")), "both operands are activations"),
    "computed_weight": (made("Conv", variable("a"), variable("b")), "both operands are activations"),
    "constant_first": (made("MatMul", constant("w", 3, 4), variable("a")), "its first operand is the constant"),
    "constant_input": (made("Gemm", constant("a", 2, 3), constant("w", 3, 4)), "its input is a constant"),
    "no_weight": (made("Conv", variable("a")), "both operands are activations"),
    "float16": (
        made("Conv", variable("a"), constant("w", 4, 3, 3, 3, dtype=np.float16)),
        "its weight is float16, not float32",
    ),
    "float64": (made("MatMul", variable("a"), constant("w", 3, 4, dtype=np.float64)), "its weight is float64"),
    "integers": (made("MatMul", variable("a"), constant("w", 3, 4, dtype=np.int32)), "its weight is int32"),
    "stacked_matmul": (made("MatMul", variable("a"), constant("w", 2, 3, 4)), r"shape \(2, 3, 4\), not two axes"),
    "vector_matmul": (made("MatMul", variable("a"), constant("w", 3)), r"shape \(3,\), not two axes"),
    "trans_a": (made("Gemm", variable("a"), constant("w", 3, 4), transA=1), "transA is set"),
    "alpha": (made("Gemm", variable("a"), constant("w", 3, 4), alpha=0.5), "alpha or beta is not 1"),
    "beta": (made("Gemm", variable("a"), constant("w", 3, 4), constant("b", 4), beta=2.0), "alpha or beta is not 1"),
    "computed_bias": (
        made("Conv", variable("a"), constant("w", 4, 3, 1, 1), variable("b")),
        "its bias is an activation",
    ),
    "output_shape": (
        made("ConvTranspose", variable("a"), constant("w", 3, 4, 2, 2), output_shape=[9, 9]),
        "output_shape is set instead of pads",
    ),
}


@pytest.mark.parametrize(("refused", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals_say_why(refused: gs.Node, reason: str) -> None:
    actual = why_not_linear(refused)
    assert actual is not None
    with pytest.raises(QuantizationError, match=f"^layer: .*{reason}"):
        find_linear(refused)
    graph = gs.Graph([refused], opset=17)
    assert linear_layers(graph) == {}
    assert refused_layers(graph) == {"layer": actual}


@pytest.mark.parametrize(
    ("rows", "columns"),
    [pytest.param(3, 4, id="matrix"), pytest.param(4, 1, id="column"), pytest.param(3, 1, id="short")],
)
def test_a_bias_that_differs_from_row_to_row_is_refused(rows: int, columns: int) -> None:
    """Gemm's C [m, n] or [m, 1] is not a bias per output channel. `normalise` does not change it."""
    layer = made("Gemm", variable("a"), constant("w", 3, 4), constant("c", rows, columns))
    assert why_not_linear(layer) == "its bias differs from row to row"


@pytest.mark.parametrize(
    "accepted",
    [
        pytest.param(made("Conv", variable("a"), constant("w", 4, 3, 3, 3), gs.Variable.empty()), id="empty_bias"),
        pytest.param(made("Gemm", variable("a"), constant("w", 3, 4), alpha=1.0, beta=1.0, transA=0), id="spelled_out"),
        pytest.param(made("Gemm", variable("a"), constant("w", 3, 4), gs.Variable.empty()), id="empty_gemm_bias"),
        pytest.param(made("ConvTranspose", variable("a"), constant("w", 3, 4, 2), output_shape=[]), id="no_shape"),
    ],
)
def test_these_are_not_refused(accepted: gs.Node) -> None:
    assert why_not_linear(accepted) is None
    assert find_linear(accepted).bias is None


def test_find_linear_refuses_other_operators() -> None:
    with pytest.raises(QuantizationError, match="layer: Relu is not a linear layer"):
        find_linear(made("Relu", variable("a"), constant("w", 3, 4)))


def test_geometry_is_read_from_the_node() -> None:
    attributes = {"group": 2, "strides": [2, 1], "dilations": [1, 3], "pads": [1, 2, 3, 4]}
    inputs = [variable("a"), constant("w", 6, 2, 3, 5), constant("b", 6)]
    layer = find_linear(made("Conv", *inputs, **attributes))
    assert layer == Linear(
        "layer", "Conv", "a", "y", "w", (6, 2, 3, 5), "b", 2, (2, 1), (1, 3), (1, 2, 3, 4), "NOTSET", (0, 0)
    )
    assert (layer.kernel, layer.matrix_shape, layer.outputs) == ((3, 5), (2, 3, 30), 6)
    gemm = find_linear(made("Gemm", variable("a"), constant("w", 6, 2), transB=1))
    assert (gemm.transposed, gemm.kernel, gemm.matrix_shape, gemm.strides) == (True, (), (1, 6, 2), ())


def test_layers_are_listed_in_the_graphs_order_and_none_twice() -> None:
    nodes = [
        node("Conv", ["x", "w1"], ["a"], name="z_first"),
        node("MatMul", ["a", "a"], ["b"], name="between"),
        node("Relu", ["b"], ["c"], name="relu"),
        node("Conv", ["c", "w2"], ["y"], name="a_second"),
    ]
    graph = gs.import_onnx(build(nodes, {"w1": array(3, 3, 1, 1), "w2": array(2, 3, 1, 1)}, (1, 3, 4, 4)))
    assert list(linear_layers(graph)) == ["z_first", "a_second"]
    assert refused_layers(graph) == {"between": "both operands are activations"}


def test_doubles_are_refused_as_onnx_reads_them() -> None:
    weights = {"w": array(3, 4).astype(np.float64)}
    model = build([node("MatMul", ["x", "w"], ["y"], name="layer")], weights, (2, 3), dtype=TensorProto.DOUBLE)
    assert why_not_linear(first_node(model)) == "its weight is float64, not float32"


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN", "Einsum", "DeformConv"])
def test_other_operators_with_weights_are_listed(op: str) -> None:
    weighted = made(op, variable("x"), constant("w", 1, 8, 4))
    weightless = gs.Node(op, "weightless", inputs=[variable("a"), constant("bias", 8)], outputs=[variable("b")])
    assert refused_layers(gs.Graph([weighted, weightless])) == {"layer": f"no pass quantizes {op}"}
