"""Heads of detectors: what decodes and selects stays in float, and boxes and scores are as near to float as can be."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from converter import Result, convert
from converter.runtime.session import open_session
from models.detector_heads.catalog import DETECTORS
from models.zoo import feeds_of
from passes.errors import ModelError
from passes.numerics.error import sqnr_db
from tests.support.command_line import run as command
from tests.support.static_quantization import static_file

DECODING = frozenset({"Exp", "GatherElements", "NonMaxSuppression", "Pow", "ScatterND", "TopK"})
SELECTING = ["detector SSD", "detector RetinaNet"]
SLOW_INT4 = [
    pytest.param(name, marks=() if name == "detector SSD" else pytest.mark.slow, id=name) for name in DETECTORS
]


@functools.cache
def float_model(name: str) -> onnx.ModelProto:
    return DETECTORS[name].build()


@functools.cache
def converted(name: str, recipe: str) -> Result:
    return convert(float_model(name), feeds_of(float_model(name), 16), recipe=recipe)


def parts(name: str, model: onnx.ModelProto, *, optimize: bool = True) -> list[NDArray[Any]]:
    """Return all boxes and all scores of eight images that did not calibrate, before any are selected."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    wanted = (DETECTORS[name].boxes, DETECTORS[name].scores)
    present = {value.name for value in tapped.graph.output}
    extra = {part.tensor for part in wanted} - present
    tapped.graph.output.extend(helper.make_empty_tensor_value_info(tensor) for tensor in sorted(extra))
    session = open_session(tapped, threads=1, optimize=optimize, exact=optimize)
    images = feeds_of(model, 8, seed=2)["images"]
    rows = [session.run([part.tensor for part in wanted], {"images": image[None]}) for image in images]
    return [
        np.stack([part.of(np.asarray(values)) for values in column])
        for part, column in zip(wanted, zip(*rows, strict=True), strict=True)
    ]


def errors(name: str, model: onnx.ModelProto, *, optimize: bool = True) -> tuple[float, float]:
    """Return the SQNR of the boxes and of the scores."""
    expected, found = parts(name, float_model(name)), parts(name, model, optimize=optimize)
    return sqnr_db(expected[0], found[0]), sqnr_db(expected[1], found[1])


def static_errors(name: str, folder: Path) -> tuple[float, float] | None:
    """Return what quantize_static has, or None if its file does not load."""
    images = feeds_of(float_model(name), 16)["images"]
    try:
        return errors(name, static_file(float_model(name), [{"images": image[None]} for image in images], folder))
    except ModelError:
        return None


def decoding(model: onnx.ModelProto) -> Iterator[str]:
    """Yield the tensors behind the last trained layers, without the layers' own results."""
    constants = {tensor.name for tensor in model.graph.initializer}
    needed: set[str] = set()
    for node in reversed(model.graph.node):
        trained = node.op_type in ("Conv", "MatMul") and node.input[1] in constants and ".dfl." not in node.name
        if trained or any(output in needed for output in node.output):
            needed.update(node.input)
        if not trained and not any(output in needed for output in node.output):
            yield from node.output


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("recipe", ["int8", pytest.param("int4", marks=pytest.mark.slow)])
def test_boxes_are_decoded_and_selected_in_float(name: str, recipe: str) -> None:
    model = converted(name, recipe).model
    rounded = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert rounded
    assert not rounded.intersection(decoding(float_model(name)))
    values = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    assert not [node.name for node in model.graph.node if node.op_type in DECODING and node.input[0] in values]


@pytest.mark.parametrize("name", DETECTORS)
def test_eight_bits_are_at_least_as_near_as_quantize_static(name: str, tmp_path: Path) -> None:
    boxes, scores = errors(name, converted(name, "int8").model)
    # six to nine layers of 8 bits in a row leave 25 dB; YOLOX's exp multiplies the error of the largest boxes
    assert boxes > (17 if name == "detector YOLOX" else 24)
    assert scores > 25
    static = static_errors(name, tmp_path)
    if static is None:
        assert name == "detector RetinaNet", "only for shared weights does it write a file that does not load"
        return
    assert boxes > static[0] - 1  # one more or less may be rounded to the next code
    assert scores > static[1] - 1


@pytest.mark.parametrize("name", SLOW_INT4)
def test_four_bits(name: str) -> None:
    """A weight of 4 bits with a scale for each channel leaves 20 dB or so, with blocks 25 and more."""
    boxes, scores = errors(name, converted(name, "int4").model)
    assert boxes > (12 if name == "detector YOLOX" else 18)
    assert scores > 18


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("recipe", ["int8", pytest.param("int4", marks=pytest.mark.slow)])
def test_the_file_is_the_same_without_optimizations(name: str, recipe: str) -> None:
    model = converted(name, recipe).model
    for usual, plain in zip(errors(name, model), errors(name, model, optimize=False), strict=True):
        assert abs(usual - plain) < 1  # the two ways differ by the rounding of ties


def test_boxes_and_scores_never_share_a_grid() -> None:
    """YOLOv8's layers write a scale's boxes and scores apart, and its head concatenates them before it decodes them."""
    model = converted("detector YOLOv8", "int8").model
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    grids = {
        node.input[0]: float(constants[node.input[1]]) for node in model.graph.node if node.op_type == "QuantizeLinear"
    }
    for level in range(3):
        assert grids[f"detect.cv2.{level}.out"] != grids[f"detect.cv3.{level}.out"]
    (expected,) = (layer for layer in converted("detector YOLOv8", "int8").layers if layer.name == "detect.dfl.conv")
    assert expected.bits == 32
    assert expected.reason == "it is the expected value of a softmax, as a detector decodes its boxes"


@pytest.mark.parametrize("name", SELECTING)
@pytest.mark.parametrize("optimize", [True, False])
def test_an_image_without_a_detection(name: str, optimize: bool) -> None:
    images = np.zeros((1, 3, 64, 64), np.float32)
    for model in (float_model(name), converted(name, "int8").model):
        session = open_session(model, threads=1, optimize=optimize)
        boxes, scores, labels = session.run(["boxes", "scores", "labels"], {"images": images})
        assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))


@pytest.mark.parametrize("name", [name for name, detector in DETECTORS.items() if detector.selects])
def test_what_is_selected_says_nothing_of_the_error(name: str) -> None:
    """The best rows change places. So the conversion compares what the model selects from, and does not warn."""
    result = converted(name, "int8")
    assert result.fidelity is not None
    assert result.fidelity.sqnr_db is not None
    assert result.fidelity.sqnr_db > 25
    assert result.fidelity.warning == ""


def test_the_command_converts_a_detector_with_suppression(tmp_path: Path) -> None:
    onnx.save(float_model("detector SSD"), tmp_path / "ssd.onnx")
    np.savez(tmp_path / "images.npz", images=feeds_of(float_model("detector SSD"), 32)["images"])
    arguments = (str(tmp_path / "ssd.onnx"), "-o", str(tmp_path / "int8.onnx"))
    result = command("convert", *arguments, "--calibration", str(tmp_path / "images.npz"))
    assert result.exit_code == 0, result.output
    assert "Warning" not in result.output
