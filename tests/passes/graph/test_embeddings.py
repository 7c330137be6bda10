"""Embedding tables in 8 bits: the nodes that read them, and the tables that stay in float."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter import Result, Settings, convert
from converter.qdq.reader import read_qdq
from passes.numerics.error import sqnr_db
from tests.support.networks import run

ROWS, WIDTH = 200, 96
IDS = np.random.default_rng(0).integers(0, ROWS, (40, 7))


def words(
    table: np.ndarray | None = None, *, readers: int = 1, tied: bool = False, indices: int = TensorProto.INT64
) -> onnx.ModelProto:
    """A table of words, read once or twice, then a layer. With ``tied``, the layer multiplies by the table."""
    draw = np.random.default_rng(1)
    if table is None:
        table = draw.standard_normal((ROWS, WIDTH)).astype(np.float32)
    nodes = [helper.make_node("Gather", ["words", "ids"], ["first"], "embed")]
    last = "first"
    if readers == 2:
        nodes.append(helper.make_node("Neg", ["ids"], ["others"], "negative"))  # rows are counted from the end
        nodes.append(helper.make_node("Gather", ["words", "others"], ["second"], "embed_again"))
        nodes.append(helper.make_node("Add", ["first", "second"], ["both"], "both"))
        last = "both"
    if tied:
        nodes.append(helper.make_node("Transpose", ["words"], ["turned"], "turn", perm=[1, 0]))
    nodes.append(helper.make_node("MatMul", [last, "turned" if tied else "w"], ["output"], "head"))
    constants = {"words": table}
    if not tied:
        constants["w"] = draw.standard_normal((WIDTH, 5)).astype(np.float32)
    width = len(table) if tied else 5
    graph = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info("ids", indices, ["n", 7])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 7, width])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def decibels(result: Result) -> float:
    """SQNR of the table in the file."""
    stored, table = constants(result.model), constants(words())["words"]
    return float(sqnr_db(table, stored["words_int8"] * stored["words_scale"][:, None]))


@pytest.mark.parametrize("recipe", ["int8", "int4", "int4-weight-only", "dynamic", "int8-weight-only"])
@pytest.mark.parametrize("readers", [1, 2])
def test_the_file_has_the_rows_as_int8(recipe: str, readers: int) -> None:
    network = words(readers=readers)
    result = convert(network, {"ids": IDS}, recipe=recipe)
    model = result.model
    stored = constants(model)
    assert stored["words_int8"].dtype == np.int8
    assert stored["words_int8"].shape == (ROWS, WIDTH)
    assert not any(values.dtype == np.float32 and values.size >= ROWS * WIDTH for values in stored.values())
    assert result.embeddings == (f"words ({ROWS}x{WIDTH}): 8 bits a row, {decibels(result):.1f} dB",)
    assert {"embed"} <= {node.name for node in model.graph.node}
    assert next(node for node in model.graph.node if node.name == "embed").output[0] == "first"
    plain = convert(network, {"ids": IDS}, recipe=recipe, target="web").model
    wanted = run(network, IDS)[0]
    assert "words" in constants(plain)
    assert sqnr_db(wanted, run(model, IDS)[0]) > sqnr_db(wanted, run(plain, IDS)[0]) - 5.0
    assert model.ByteSize() < plain.ByteSize() / 2


def test_rows_are_rounded_by_their_own_largest_value() -> None:
    table = np.random.default_rng(2).standard_normal((ROWS, WIDTH)).astype(np.float32)
    table *= np.exp(np.random.default_rng(3).normal(0, 2, (ROWS, 1))).astype(np.float32)
    table[7] = 0.0
    stored = constants(convert(words(table), {"ids": IDS}, recipe="int8-weight-only").model)
    rows = stored["words_int8"] * stored["words_scale"][:, None]
    np.testing.assert_allclose(rows, table, atol=0.51 * np.abs(table).max(axis=1).max() / 127)
    for row, wanted in zip(rows, table, strict=True):
        assert np.abs(row - wanted).max() <= 0.501 * np.abs(wanted).max() / 127


@pytest.mark.parametrize("what", ["small", "spiky", "shared", "nan"])
def test_tables_that_stay_in_float(what: str) -> None:
    table = np.random.default_rng(4).standard_normal((ROWS, WIDTH)).astype(np.float32)
    if what == "small":
        table = table[:40]
    if what == "spiky":  # all but one value of a row are lost
        table = np.full((ROWS, WIDTH), 0.0039, np.float32)
        table[:, 0] = 1.0
    if what == "nan":
        table[ROWS - 1, 0] = np.nan
    network = words(table)
    if what == "shared":
        network.graph.output.append(helper.make_tensor_value_info("norm", TensorProto.FLOAT, [1, 1]))
        network.graph.node.append(helper.make_node("ReduceMax", ["words"], ["norm"], "norm"))
    ids = IDS % len(table) if what != "nan" else IDS % (ROWS - 1)
    result = convert(network, {"ids": ids}, recipe="int8-weight-only")
    assert "words" in constants(result.model)
    assert "words_int8" not in constants(result.model)
    assert len(result.embeddings) == (what in {"spiky", "nan"})
    assert all("stays in float" in line for line in result.embeddings)


def behind(nodes: list[onnx.NodeProto], **more: np.ndarray) -> onnx.ModelProto:
    """Rows "first" [n, 7, k] of a table of whole numbers, and nodes that make "output" of them."""
    table = np.random.default_rng(6).permutation(ROWS * WIDTH).reshape(ROWS, WIDTH).astype(np.float32)
    gather = helper.make_node("Gather", ["words", "ids"], ["first"], "embed")
    graph = helper.make_graph(
        [gather, *nodes],
        "lookup",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 7])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in {"words": table, **more}.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


W = np.random.default_rng(7).standard_normal((WIDTH, 5)).astype(np.float32)
DATA = np.random.default_rng(8).standard_normal((ROWS * WIDTH, 4)).astype(np.float32)
EXACT = {
    "indices": (
        [
            helper.make_node("Cast", ["first"], ["numbers"], "cast", to=TensorProto.INT64),
            helper.make_node("Gather", ["data", "numbers"], ["found"], "look"),
            helper.make_node("MatMul", ["found", "w"], ["output"], "head"),
        ],
        {"data": DATA[:, :1].repeat(4, 1)[: ROWS * WIDTH], "w": W[:4]},
        "Cast cast may need exact values",
    ),
    "anchors": (
        [
            helper.make_node("MatMul", ["first", "w"], ["scores"], "head"),
            helper.make_node("MatMul", ["scores", "back"], ["offsets"], "tail"),
            helper.make_node("Add", ["first", "offsets"], ["output"], "decode"),
        ],
        {"w": W, "back": W.T.copy()},
        "no layer or normalization is between it and output output",
    ),
}


@pytest.mark.parametrize("what", list(EXACT))
@pytest.mark.parametrize("recipe", ["int8", "int8-weight-only"])
def test_numbers_that_must_be_exact_stay_in_float(what: str, recipe: str) -> None:
    nodes, more, reason = EXACT[what]
    result = convert(behind(nodes, **more), {"ids": IDS}, recipe=recipe)
    assert "words" in constants(result.model)
    assert any(reason in line for line in result.embeddings)


@pytest.mark.parametrize("spelled_out", [False, True])
def test_a_shortcut_around_layers_from_a_normalization_is_no_obstacle(spelled_out: bool) -> None:
    """As in transformers that normalize behind the shortcut: the output is the last normalization."""
    if spelled_out:
        nodes = [
            helper.make_node("ReduceMean", ["first", "axes"], ["mean"], "mean"),
            helper.make_node("Sub", ["first", "mean"], ["centred"], "centre"),
            helper.make_node("Pow", ["centred", "two"], ["squares"], "square"),
            helper.make_node("ReduceMean", ["squares", "axes"], ["variance"], "variance"),
            helper.make_node("Sqrt", ["variance"], ["deviation"], "root"),
            helper.make_node("Div", ["centred", "deviation"], ["normal"], "normalize"),
        ]
    else:
        nodes = [helper.make_node("LayerNormalization", ["first", "ones"], ["normal"], "normalize")]
    nodes += [
        helper.make_node("MatMul", ["normal", "w"], ["inner"], "up"),
        helper.make_node("MatMul", ["inner", "back"], ["update"], "down"),
        helper.make_node("Add", ["normal", "update"], ["output"], "shortcut"),
    ]
    more = {"w": W, "back": W.T.copy()}
    more |= (
        {"axes": np.array([-1], np.int64), "two": np.array(2, np.float32)}
        if spelled_out
        else {"ones": np.ones(WIDTH, np.float32)}
    )
    result = convert(behind(nodes, **more), {"ids": IDS}, recipe="int8-weight-only")
    assert "words_int8" in constants(result.model)


def test_every_row_must_keep_enough() -> None:
    table = 100 * np.random.default_rng(9).standard_normal((ROWS, 500)).astype(np.float32)
    table[150] = 0.0039
    table[150, 0] = 1.0
    table[151] = 0.0
    network = words(table)
    network.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones((500, 5), np.float32), "w"))
    result = convert(network, {"ids": IDS}, recipe="int8-weight-only")
    assert "words" in constants(result.model)
    assert "row 150 would keep 21" in result.embeddings[0]


@pytest.mark.parametrize("selector", ["embed", "emb*", "op:Gather"])
def test_a_gather_can_be_excluded(selector: str) -> None:
    result = convert(words(), {"ids": IDS}, recipe="int8", exclude=[selector])
    assert "words" in constants(result.model)
    assert "embed is excluded" in result.embeddings[0]
    assert [layer.bits for layer in result.layers] == [8]


def test_an_aim_near_the_table_s_own_error_leaves_it_in_float() -> None:
    low, high = (
        convert(words(), {"ids": IDS}, recipe="int8-weight-only", settings=Settings(min_sqnr=aim)) for aim in (20, 38)
    )
    assert "words_int8" in constants(low.model)
    assert "words" in constants(high.model)


def test_a_table_of_one_column_would_not_become_smaller() -> None:
    table = np.random.default_rng(10).standard_normal((ROWS * WIDTH, 1)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["first", "w"], ["output"], "head")]
    network = behind(nodes, w=W[:1])
    network.graph.initializer[0].CopyFrom(numpy_helper.from_array(table, "words"))
    model = convert(network, {"ids": IDS}, recipe="int8-weight-only").model
    assert "words" in constants(model)
    assert model.ByteSize() < 1.1 * network.ByteSize()


def test_a_table_that_a_layer_has_too_gets_the_layer_s_codes() -> None:
    model = convert(words(tied=True), {"ids": IDS}, recipe="int8").model
    assert sum(values.dtype == np.int8 and values.size == ROWS * WIDTH for values in constants(model).values()) == 1


@pytest.mark.parametrize("indices", [TensorProto.INT64, TensorProto.INT32])
def test_the_file_is_read_and_converted_again(indices: int) -> None:
    network = words(indices=indices)
    ids = IDS.astype(np.int32) if indices == TensorProto.INT32 else IDS
    model = convert(network, {"ids": ids}, recipe="int8").model
    floats, _ = read_qdq(model)
    assert sqnr_db(run(network, ids)[0], run(floats, ids)[0]) > 30
    again = convert(model, {"ids": ids}, recipe="int4").model
    np.testing.assert_array_equal(constants(again)["words_int8"], constants(model)["words_int8"])
    assert sqnr_db(run(network, ids)[0], run(again, ids)[0]) > 10
