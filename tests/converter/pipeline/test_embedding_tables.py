"""An embedding table that the last layer reads as its weight is stored once, and only rows that are read are floats."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import converter
from converter.qdq.tables import code_tables
from passes.ir.model import Model
from passes.numerics.error import sqnr_db
from passes.weights.rtn import Rtn
from tests.support.graphs import array, node, run

TOKENS, WIDTH = 800, 32
FORMS = ("transposed", "gemm", "columns")
RECIPES = ("int8", "int8-gptq", "int4", "int4-weight-only", "int4-matmulnbits")


def language_model(form: str, tokens: int = TOKENS) -> onnx.ModelProto:
    """Embeddings, one residual block, and scores of all tokens by the table itself.

    The table is stored by token and transposed for a MatMul, by token for a Gemm, or by channel.
    """
    table = array(tokens, WIDTH)
    weights: dict[str, NDArray[Any]] = {"up": array(WIDTH, 64) / 6, "down": array(64, WIDTH) / 8}
    weights |= {"g": np.full(WIDTH, 0.2, np.float32), "rows": np.array([-1, WIDTH])}
    weights["table"] = table.T.copy() if form == "columns" else table
    nodes = [
        node("Gather", ["table", "ids"], ["e"], name="embed"),
        node("MatMul", ["e", "up"], ["a"], name="first"),
        node("Relu", ["a"], ["b"]),
        node("MatMul", ["b", "down"], ["c"], name="second"),
        node("Add", ["c", "e"], ["d"]),
        node("LayerNormalization", ["d", "g"], ["n"], axis=-1),
    ]
    if form == "columns":
        nodes[0] = node("Gather", ["table", "ids"], ["k"], name="embed", axis=1)
        nodes.insert(1, node("Transpose", ["k"], ["e"], perm=[1, 2, 0]))
        nodes.append(node("MatMul", ["n", "table"], ["y"], name="head"))
    elif form == "gemm":
        nodes.append(node("Reshape", ["n", "rows"], ["m"]))
        nodes.append(node("Gemm", ["m", "table"], ["y"], name="head", transB=1))
    else:
        nodes.append(node("Transpose", ["table"], ["turned"], perm=[1, 0]))
        nodes.append(node("MatMul", ["n", "turned"], ["y"], name="head"))
    read = {name for each in nodes for name in each.input}
    graph = helper.make_graph(
        nodes,
        "language model",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "s"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * (2 if form == "gemm" else 3))],
        [numpy_helper.from_array(values, name) for name, values in weights.items() if name in read],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def ids(seed: int, count: int = 8) -> NDArray[np.int64]:
    """Indices of tokens, some of them from the end."""
    return np.random.default_rng(seed).integers(-TOKENS, TOKENS, (4, count))


CALLS = [{"ids": ids(seed)} for seed in range(16)]


def large(model: onnx.ModelProto) -> list[tuple[list[int], int]]:
    """Shapes and types of the initializers of the table's size."""
    tensors = [tensor for tensor in model.graph.initializer if np.prod(tensor.dims) >= TOKENS * WIDTH]
    return [(list(tensor.dims), tensor.data_type) for tensor in tensors]


def decibels(model: onnx.ModelProto, quantized: onnx.ModelProto) -> float:
    return sqnr_db(*(run(each, ids(99, 16))[0] for each in (model, quantized)))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("form", FORMS)
def test_the_table_is_stored_once(form: str, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 8 bits, whatever the recipe. Against a table in floats it loses at most what 8 bits lose."""
    model = language_model(form)
    result = converter.convert(model, CALLS, recipe=recipe)
    (head,) = [layer for layer in result.layers if layer.name == "head"]
    assert head.bits == 8
    assert "weight shared with embed" in head.note
    ((shape, kind),) = large(result.model)
    blocks = recipe == "int4-matmulnbits"
    assert (shape, kind) == ([TOKENS, 1, WIDTH] if blocks else [TOKENS, WIDTH], 2 if blocks else 3)
    monkeypatch.setattr(Model, "tables", lambda _self: {})
    apart = converter.convert(model, CALLS, recipe=recipe)
    assert len(large(apart.model)) == 2 or recipe.startswith("int4")
    assert len(result.model.SerializeToString()) < 0.4 * len(apart.model.SerializeToString())
    assert decibels(model, result.model) > decibels(model, apart.model) - 1.5


def test_rows_are_exactly_those_of_the_layer() -> None:
    """The file's embeddings are the dequantized weight of its last layer."""
    model = language_model("transposed")
    quantized = converter.convert(model, CALLS, recipe="int8").model
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    (codes,) = [values for values in tensors.values() if values.size == TOKENS * WIDTH]
    (scales,) = [values for values in tensors.values() if values.shape == (TOKENS,) and values.dtype == np.float32]
    quantized.graph.output.append(helper.make_empty_tensor_value_info("e"))
    embedded = run(quantized, ids(0))[1]
    np.testing.assert_array_equal(embedded, (codes * scales[:, None])[ids(0)])


def test_other_readers_keep_the_floats() -> None:
    """What reads the whole table, or rows of it along the other axis, needs floats. So does a small table."""
    whole = language_model("gemm")
    whole.graph.node.append(node("ReduceSum", ["table"], ["total"]))
    whole.graph.output.append(helper.make_tensor_value_info("total", TensorProto.FLOAT, None))
    result = converter.convert(whole, CALLS, recipe="int8")
    assert ([TOKENS, WIDTH], TensorProto.FLOAT) in large(result.model)
    small = language_model("gemm", tokens=100)
    result = converter.convert(small, [{"ids": ids(seed) % 100} for seed in range(16)], recipe="int4")
    assert {layer.bits for layer in result.layers} == {4}


def test_bits_that_are_named_are_kept() -> None:
    model = language_model("transposed")
    result = converter.convert(model, CALLS, recipe="int4", bits={"head": 4})
    assert {layer.name: layer.bits for layer in result.layers}["head"] == 4
    assert decibels(model, result.model) > 15


def test_a_weight_that_was_trained_parts_from_the_table() -> None:
    """Its codes are no embeddings any more."""
    from tests.support.networks import quantize

    model = quantize(language_model("gemm"), Rtn(bits=8), {"ids": ids(0)}, ranges=False)
    assert set(code_tables(model, {"head": 8}, frozenset())) == {"embed"}
    model.quantized["head"].codes[:] = -model.quantized["head"].codes
    assert code_tables(model, {"head": 8}, frozenset()) == {}


@pytest.mark.parametrize("recipe", ["keep", "int8"])
def test_a_file_of_this_form_is_read(recipe: str) -> None:
    model = converter.convert(language_model("transposed"), CALLS, recipe="int8").model
    again = converter.convert(model, None if recipe == "keep" else CALLS, recipe=recipe)
    assert large(again.model) == large(model)
    assert decibels(model, again.model) > (200 if recipe == "keep" else 30)
