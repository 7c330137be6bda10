"""Outputs that are sequences, maps or empty, and outputs whose size depends on values."""

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import converter
from passes.numerics.error import sqnr_db
from tests.support.graphs import array, node, run

FLOAT = TensorProto.FLOAT
DATA = array(32, 3, 8, 8)
LAYERS = [
    node("Conv", ["x", "w"], ["a"], name="conv"),
    node("Relu", ["a"], ["b"], name="relu"),
    node("GlobalAveragePool", ["b"], ["p"], name="pool"),
    node("Flatten", ["p"], ["f"], name="flat"),
    node("MatMul", ["f", "v"], ["s"], name="fc"),
]
W = {"w": array(8, 3, 3, 3) / 5, "v": array(8, 4), "half": np.array(0.2, np.float32), "none": np.array([0])}
MAPS = helper.make_sequence_type_proto(
    helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, None))
)


def network(*more: onnx.NodeProto, outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
    read = {name for each in [*LAYERS, *more] for name in each.input}
    graph = helper.make_graph(
        [*LAYERS, *more],
        "odd",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 3, 8, 8])],
        outputs,
        [numpy_helper.from_array(values, name) for name, values in W.items() if name in read],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return model


def classifier() -> onnx.ModelProto:
    """Labels, and maps of scores, as converters of scikit-learn write them."""
    zip_map = node("ZipMap", ["q"], ["maps"], name="zip", domain="ai.onnx.ml", classlabels_int64s=[3, 5, 7, 9])
    more = [node("Softmax", ["s"], ["q"], name="soft"), zip_map, node("ArgMax", ["q"], ["label"], axis=1, keepdims=0)]
    label = helper.make_tensor_value_info("label", TensorProto.INT64, ["n"])
    return network(*more, outputs=[helper.make_value_info("maps", MAPS), label])


def sequence() -> onnx.ModelProto:
    """A sequence with one tensor for each image."""
    split = node("SplitToSequence", ["s"], ["parts"], name="split", axis=0)
    return network(split, outputs=[helper.make_tensor_sequence_value_info("parts", FLOAT, None)])


def detector() -> onnx.ModelProto:
    """The scores above a threshold, however many there are, and the scores themselves."""
    more = [
        node("Greater", ["s", "half"], ["high"], name="high"),
        node("Compress", ["s", "flags"], ["found"], name="found"),
        node("Reshape", ["high", "one"], ["flags"], name="flags"),
    ]
    more = [more[0], more[2], more[1]]
    W["one"] = np.array([-1])
    found = helper.make_tensor_value_info("found", FLOAT, ["count"])
    return network(*more, outputs=[found, helper.make_tensor_value_info("s", FLOAT, ["n", 4])])


def empty() -> onnx.ModelProto:
    """A tensor without elements joins a layer's input."""
    more = [
        node("Slice", ["f", "none", "none", "axis"], ["nothing"], name="nothing"),
        node("Concat", ["nothing", "s"], ["y"], name="join", axis=1),
    ]
    W["axis"] = np.array([1])
    return network(*more, outputs=[helper.make_tensor_value_info("y", FLOAT, ["n", 4])])


def normalised() -> onnx.ModelProto:
    """MeanVarianceNormalization between layers. onnxruntime has no integer form of it."""
    more = [
        node("MeanVarianceNormalization", ["a"], ["z"], name="mvn", axes=[0, 2, 3]),
        node("Conv", ["z", "u"], ["y"], name="last"),
    ]
    W["u"] = array(4, 8, 1, 1)
    return network(*more, outputs=[helper.make_tensor_value_info("y", FLOAT, ["n", 4, 6, 6])])


NETWORKS = {"classifier": classifier, "sequence": sequence, "detector": detector, "empty": empty, "mvn": normalised}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_they_are_converted_and_measured(name: str, recipe: str, tmp_path: Path) -> None:
    model = NETWORKS[name]()
    result = converter.convert(model, DATA, recipe=recipe)
    result.save(tmp_path / "q.onnx")
    written = onnx.load(tmp_path / "q.onnx")
    assert [value.type for value in written.graph.output] == [value.type for value in model.graph.output]
    assert {layer.bits for layer in result.layers} == {int(recipe[3:])}
    evaluated = converter.evaluate([model, written], DATA[:8], latency=False).models[1]
    compared = converter.compare(model, written, DATA[:8])
    assert converter.verify(written, "cpu", DATA[:8], reference=model).passed
    floor = 22 if recipe == "int8" else 10
    assert compared.layers
    if name != "detector":
        assert evaluated.sqnr_db is not None
        assert evaluated.sqnr_db > floor
        assert compared.sqnr_db > floor
    if name in {"classifier", "sequence"}:
        assert run(written, DATA[:2])[0]  # still maps or tensors


def test_another_number_of_detections_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """With one image in a run, some runs find as much as the float model does, and others do not."""
    model = detector()
    rough = converter.convert(model, DATA, recipe="int4").model
    images = [image[None] for image in DATA]
    counts = [(len(run(model, image)[0]), len(run(rough, image)[0])) for image in images]
    unlike = sum(one != other for one, other in counts)
    assert 0 < unlike < len(images)
    samples = [images[place] for place in range(len(images))]
    with caplog.at_level(logging.WARNING):
        for image, (one, other) in zip(samples, counts, strict=True):
            evaluated = converter.evaluate([model, rough], image, latency=False).models[1]
            compared = converter.compare(model, rough, image)
            assert ("found" in evaluated.outputs) == (one == other)
            assert (compared.sqnr_db == -np.inf) == (one != other)
    assert caplog.text.count("the first output has another shape than") == 2 * unlike


def test_a_normalisation_of_the_whole_batch_runs_one_image_at_a_time() -> None:
    """Its mean is that of the batch, so images in one batch would change each other."""
    model = normalised()
    result = converter.convert(model, DATA, recipe="int8")
    image = array(1, 3, 8, 8, seed=5)
    assert sqnr_db(run(model, image)[0], run(result.model, image)[0]) > 25
