"""Layers that are the expected value of a softmax, and layers that only look like it."""

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.graph.normalise.normalise import Normalise
from passes.ir.expectations import expected_values
from passes.ir.linear import linear_layers
from passes.ir.model import Model
from passes.statistics import Stats
from tests.support.graphs import array, build, node
from tests.support.integer_rules import RULES


def distances(outputs: int = 1, kernel: int = 1, op: str = "Softmax") -> onnx.ModelProto:
    """YOLOv8's distances of boxes: four sides, 16 bins, 9 cells."""
    attributes: dict[str, Any] = {"axis": 1} if op == "Softmax" else {}
    nodes = [
        node("Conv", ["x", "v"], ["logits"], "logits"),
        node("Reshape", ["logits", "split"], ["sides"], "sides"),
        node("Transpose", ["sides"], ["bins"], "bins", perm=[0, 2, 1, 3]),
        node(op, ["bins"], ["chances"], "chances", **attributes),
        node("Conv", ["chances", "w"], ["y"], "mean", pads=[kernel // 2] * 4),
    ]
    constants = {
        "v": array(64, 3, 1, 1),
        "split": np.array([0, 4, 16, 9]),
        "w": array(outputs, 16, kernel, kernel),
    }
    return build(nodes, constants, ["n", 3, 3, 3])


def coordinates(outputs: int = 2) -> onnx.ModelProto:
    """The coordinates of a keypoint: a soft-argmax over the pixels of a map."""
    nodes = [
        node("Conv", ["x", "v"], ["maps"], "maps"),
        node("Reshape", ["maps", "flat"], ["pixels"], "pixels"),
        node("Softmax", ["pixels"], ["chances"], "chances", axis=-1),
        node("MatMul", ["chances", "w"], ["y"], "mean"),
    ]
    return build(nodes, {"v": array(5, 3, 1, 1), "flat": np.array([0, 5, 9]), "w": array(9, outputs)}, ["n", 3, 3, 3])


def found(model: onnx.ModelProto) -> list[str]:
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(model))
    return expected_values(graph, linear_layers(graph))


def test_distances_and_coordinates() -> None:
    assert found(distances()) == ["mean"]
    assert found(coordinates()) == ["mean"]


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(distances(outputs=5), id="table"),
        pytest.param(distances(kernel=3), id="filter"),
        pytest.param(distances(op="Sigmoid"), id="gate"),
        pytest.param(coordinates(8), id="codebook"),
    ],
)
def test_a_learned_table_or_filter_is_none(model: onnx.ModelProto) -> None:
    assert found(model) == []


@pytest.mark.parametrize("rewrite", [True, False])
def test_it_stays_in_float_with_a_reason(rewrite: bool) -> None:
    """A file that is quantized already keeps its codes."""
    model = Model(gs.import_onnx(distances()), RULES)
    report = Normalise(rewrite=rewrite).apply(model, Stats())
    assert set(model.float_reasons) == ({"mean"} if rewrite else set())
    assert ("expected value" in report.skipped["mean"]) == rewrite
    assert report.skipped["logits"] == "computes the same"
