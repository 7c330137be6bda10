"""In-place operations on slices, as PyTorch exports them: ScatterND of whole rows becomes Concat, or what it writes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.graph.normalise.normalise import normalise
from tests.support.graphs import array, assert_same_outputs, build, node, ops

SWAP: dict[str, Any] = {"perm": [1, 0, 2, 3]}
NUMBERS = {name: np.array(value, np.int64) for name, value in (("zero", 0), ("one", 1))} | {
    name: np.array([value], np.int64)
    for name, value in (("first", 0), ("second", 1), ("last", -1), ("two", 2), ("four", 4), ("five", 5))
}


def normalised(nodes: Sequence[onnx.NodeProto], batch: int | str = "n", **constants: np.ndarray) -> gs.Graph:
    """Return the normalised graph, and check that it computes the same."""
    read = {name for each in nodes for name in each.input}
    values = {name: value for name, value in {**NUMBERS, **constants}.items() if name in read}
    model = build(nodes, values, (batch, 6, 3, 3), output_shape=(batch, 6, 3, 3))
    graph = gs.import_onnx(model)
    normalise(graph)
    assert_same_outputs(model, graph, array(2 if batch == "n" else int(batch), 6, 3, 3))
    return graph


def count(source: str, axis: str, start: str = "", end: str = "") -> list[onnx.NodeProto]:
    """Number the rows of an axis, or some of them, as ``rows`` ``[n, 1]``."""
    name = f"{source}{axis}"
    nodes = [
        node("Shape", [source], [f"{name}.shape"]),
        node("Gather", [f"{name}.shape", axis], [f"{name}.size"]),
        node("Range", ["zero", f"{name}.size", "one"], [f"{name}.range"]),
    ]
    cut = f"{name}.range"
    if start:
        nodes.append(node("Slice", [cut, start, end, "first", "second"], [f"{name}.cut"]))
        cut = f"{name}.cut"
    return [*nodes, node("Unsqueeze", [cut, "last"], [f"{name}.rows"])]


@pytest.mark.parametrize("batch", ["n", 2])
def test_all_rows_are_what_is_written(batch: int | str) -> None:
    nodes = [node("Neg", ["x"], ["u"]), *count("x", "zero"), node("ScatterND", ["x", "xzero.rows", "u"], ["s"])]
    assert ops(normalised([*nodes, node("Abs", ["s"], ["y"])], batch)) == ["Neg", "Abs"]


def add_to_channels(start: str, end: str) -> list[onnx.NodeProto]:
    """``x[:, start:end] += relu(x)[:, start:end]``"""
    return [
        node("Slice", ["x", start, end, "second", "second"], ["part"]),
        node("Relu", ["part"], ["r"]),
        node("Add", ["part", "r"], ["sum"]),
        *count("x", "one", start, end),
        node("Transpose", ["sum"], ["sum.t"], **SWAP),
        node("Transpose", ["x"], ["x.t"], **SWAP),
        node("ScatterND", ["x.t", "xone.rows", "sum.t"], ["s.t"], name="scatter"),
        node("Transpose", ["s.t"], ["s"], **SWAP),
    ]


@pytest.mark.parametrize(
    ("start", "end", "slices"), [("two", "four", 3), ("first", "four", 2), ("two", "last", 3), ("first", "last", 2)]
)
def test_some_channels_become_a_concat(start: str, end: str, slices: int) -> None:
    graph = normalised([*add_to_channels(start, end), node("Abs", ["s"], ["y"])])
    assert sorted(ops(graph)) == sorted(["Slice"] * slices + ["Relu", "Add", "Concat", "Abs"])
    (concat,) = (each for each in graph.nodes if each.op == "Concat")
    assert concat.attrs == {"axis": 1}
    assert concat.name == "scatter"


def test_the_slice_that_was_written_is_the_sum() -> None:
    nodes = [
        *add_to_channels("first", "four"),
        node("Slice", ["s", "first", "four", "second", "second"], ["t"]),
        node("Slice", ["x", "first", "two", "second", "second"], ["rest"]),
        node("Concat", ["t", "rest"], ["y"], axis=1),
    ]
    graph = normalised(nodes)
    assert sorted(ops(graph)) == ["Add", "Concat", "Relu", "Slice", "Slice"]
    assert graph.nodes[-1].inputs[0].name == "sum"


def test_constant_row_numbers() -> None:
    rows = np.array([[2], [3]], np.int64)
    nodes = [
        node("Transpose", ["x"], ["x.t"], **SWAP),
        node("Slice", ["x.t", "first", "two", "first", "second"], ["part"]),
        node("Neg", ["part"], ["u"]),
        node("ScatterND", ["x.t", "rows", "u"], ["s.t"]),
        node("Transpose", ["s.t"], ["y"], **SWAP),
    ]
    graph = normalised(nodes, rows=rows)
    assert "ScatterND" not in ops(graph)
    assert "Concat" in ops(graph)


@pytest.mark.parametrize(
    "rows", [[[3], [2]], [[0], [2]], [[0], [-1]], [[1], [1]]], ids=["reversed", "gap", "negative", "twice"]
)
def test_other_rows_stay(rows: list[list[int]]) -> None:
    nodes = [
        node("Transpose", ["x"], ["x.t"], **SWAP),
        node("Slice", ["x.t", "first", "two", "first", "second"], ["u"]),
        node("ScatterND", ["x.t", "rows", "u"], ["s.t"]),
        node("Transpose", ["s.t"], ["y"], **SWAP),
    ]
    assert "ScatterND" in ops(normalised(nodes, rows=np.array(rows, np.int64)))


def test_a_scatter_that_adds_stays() -> None:
    nodes = [
        *count("x", "zero"),
        node("Relu", ["x"], ["u"]),
        node("ScatterND", ["x", "xzero.rows", "u"], ["y"], reduction="add"),
    ]
    assert "ScatterND" in ops(normalised(nodes))


def test_rows_of_another_dimension_stay() -> None:
    whole = [node("Neg", ["x"], ["u"]), *count("x", "height"), node("ScatterND", ["x", "xheight.rows", "u"], ["s"])]
    nodes = [*whole, node("Abs", ["s"], ["y"])]
    assert ops(normalised(nodes, 3, height=np.array(2, np.int64))) == ["Neg", "Abs"]  # both have the size 3
    part = [
        node("Slice", ["x", "first", "two", "first", "second"], ["u"]),
        *count("u", "zero"),
        node("ScatterND", ["x", "uzero.rows", "u"], ["y"]),
    ]
    assert "Concat" in ops(normalised(part, 3))
    assert "ScatterND" in ops(normalised(part))


def test_an_output_of_the_graph_keeps_its_name() -> None:
    nodes = [node("Neg", ["x"], ["u"]), *count("x", "zero"), node("ScatterND", ["x", "xzero.rows", "u"], ["y"])]
    assert [tensor.name for tensor in normalised(nodes).outputs] == ["y"]
