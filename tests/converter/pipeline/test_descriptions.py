"""What a file says of itself survives every recipe: class names, docs, versions, names of sizes, other domains."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from converter import convert
from tests.support.models import make_model
from tests.support.networks import images, random
from tests.support.recipes import SOLVING, brief

node = helper.make_node
METADATA = {"names": "{0: 'cat', 1: 'dog'}", "stride": "32", "convert_onnx.recipe": "an old one"}


def described(opset: int = 21, *, trained: bool = False) -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "w0"], ["a"], name="stem", pads=[1] * 4, doc_string="the first layer"),
        node("BatchNormalization", ["a", "s", "s", "s", "s"], ["b"], name="norm", doc_string="folded"),
        node("Relu", ["b"], ["c"], name="active"),
        node("Conv", ["c", "w1"], ["d"], name="middle", pads=[1] * 4),
        node("GlobalAveragePool", ["d"], ["e"], name="mean", doc_string="a mean"),
        node("Flatten", ["e"], ["f"], name="flat"),
        node("MatMul", ["f", "w2"], ["logits"], name="head", doc_string="the last layer"),
        node("Scaler", ["logits"], ["scores"], name="scale", domain="ai.onnx.ml", offset=[0.0], scale=[2.0]),
    ]
    if trained:  # Scaler has no gradient
        nodes[-1:] = [node("Identity", ["logits"], ["scores"], name="scale")]
    weights: dict[str, np.ndarray] = {
        "w0": random(16, 3, 3, 3) / 5,
        "w1": random(16, 16, 3, 3) / 12,
        "w2": random(16, 4) / 4,
        "s": np.ones(16, np.float32),
    }
    sizes: list[int | str] = ["batch", 3, "height", "width"]
    model = make_model(nodes, weights, inputs={"x": sizes}, outputs={"scores": ["batch", 4]}, opset=opset)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    model.doc_string, model.domain, model.model_version = "A model of pets.", "org.example", 7
    model.producer_name, model.producer_version = "pytorch", "2.1.0"
    model.graph.name, model.graph.doc_string = "pets", "Trained on pets."
    helper.set_model_props(model, METADATA)
    model.graph.input[0].doc_string, model.graph.output[0].doc_string = "RGB image", "scores of classes"
    model.graph.input[0].type.denotation = "IMAGE"
    model.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    model.graph.node[0].metadata_props.add(key="module", value="backbone.stem")
    model.graph.initializer[1].doc_string = "a weight"
    return model


def assert_described(written: onnx.ModelProto) -> None:
    entries = {entry.key: entry.value for entry in written.metadata_props}
    assert len(entries) == len(written.metadata_props)
    assert {key: entries[key] for key in ("names", "stride")} == {key: METADATA[key] for key in ("names", "stride")}
    assert entries["source_producer"] == "pytorch 2.1.0"
    assert entries["convert_onnx.recipe"] != METADATA["convert_onnx.recipe"]
    assert (written.doc_string, written.domain, written.model_version) == ("A model of pets.", "org.example", 7)
    assert written.producer_name == "convert-onnx"
    graph = written.graph
    assert (graph.name, graph.doc_string) == ("pets", "Trained on pets.")
    x, y = graph.input[0], graph.output[0]
    assert (x.doc_string, x.type.denotation, y.doc_string) == ("RGB image", "IMAGE", "scores of classes")
    dims = x.type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, "height", "width"]
    assert dims[0].denotation == "DATA_BATCH"
    assert y.type.tensor_type.shape.dim[0].dim_param == "batch"
    nodes = {node.name: node for node in graph.node}
    assert [nodes[name].doc_string for name in ("stem", "mean", "head")] == [
        "the first layer",
        "a mean",
        "the last layer",
    ]
    assert [(entry.key, entry.value) for entry in nodes["stem"].metadata_props] == [("module", "backbone.stem")]
    assert {entry.domain: entry.version for entry in written.opset_import}["ai.onnx.ml"] == 2


@pytest.mark.parametrize("recipe", SOLVING)
def test_descriptions_survive(recipe: str, tmp_path: Path) -> None:
    result = convert(described(trained=recipe == "int4-qat"), images(32, 3, 12, 12), recipe=brief(recipe))
    result.save(tmp_path / "out.onnx")
    assert_described(onnx.load_model(tmp_path / "out.onnx"))


@pytest.mark.parametrize("opset", [9, 13])
def test_descriptions_survive_an_upgrade_and_a_second_conversion(opset: int) -> None:
    once = convert(described(opset), images(32, 3, 12, 12)).model
    assert_described(once)
    assert_described(convert(once, images(32, 3, 12, 12), recipe="int8").model)
