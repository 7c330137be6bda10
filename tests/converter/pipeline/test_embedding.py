"""Preprocessing inside of a file: uint8 images in, the same scores or class numbers out."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import converter
from converter import Preprocess, Settings, convert
from converter.data.embedding import Embed, embed, embedded_preprocess, exact_front
from converter.data.inputs import input_specs
from converter.data.preprocess import stored_preprocess
from passes.errors import DataError, UsageError
from passes.numerics.error import sqnr_db
from tests.support.models import make_model, small_cnn
from tests.support.networks import random, run

IMAGENET = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
PREPROCESSES = {
    "imagenet": IMAGENET,
    "bgr": Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), channels="bgr"),
    "whole zero": Preprocess(mean=(127 / 255,), std=(128 / 255,)),
    "half": Preprocess(mean=(0.5,), std=(0.5,)),
    "pixels": Preprocess(),
    "255": Preprocess(mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395), scale=255),
}
IMAGES = ["nhwc", "nchw", "nhwc-bgr", "nchw-bgr"]
PIXELS = np.random.default_rng(0).integers(0, 256, (48, 12, 12, 3)).astype(np.uint8)


def as_image(pixels: NDArray[np.uint8], image: str) -> NDArray[np.uint8]:
    """RGB [n, h, w, 3] in the form that a file takes."""
    pixels = pixels[..., ::-1] if image.endswith("bgr") else pixels
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2) if image.startswith("nchw") else pixels)


def outside(model: onnx.ModelProto, preprocess: Preprocess) -> NDArray[np.float32]:
    """What a model computes of `PIXELS` that are prepared outside."""
    spec = input_specs(model)[0]
    return run(model, {spec.name: preprocess.tensor(preprocess.fit(PIXELS, spec.image[0] or 0), spec)})[0]


def first_operators(model: onnx.ModelProto) -> list[str]:
    """Operators before the first convolution, without those of constants."""
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes = itertools.takewhile(lambda node: node.op_type != "Conv", model.graph.node)
    return [node.op_type for node in nodes if node.input[0] not in constants]


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("name", PREPROCESSES)
def test_embedded_models_compute_what_preprocessing_outside_gives(name: str, image: str) -> None:
    model, preprocess = small_cnn(), PREPROCESSES[name]
    expected = outside(model, preprocess)
    rewritten, embedded = embed(model, preprocess, Embed.of(image))
    feeds = {"input": as_image(PIXELS, image)}
    exact = run(exact_front(model, embedded), feeds)[0]
    assert np.abs(exact - expected).max() < 1e-5 * np.abs(expected).max()
    # the ring of padded pixels is half a pixel from 0 at most, and half of these 12 x 12 outputs touch it
    assert sqnr_db(expected, run(rewritten, feeds)[0]) > (40 if name in {"imagenet", "bgr", "255", "half"} else 100)


def test_zeros_that_are_pixels_need_no_ring() -> None:
    rewritten, _ = embed(small_cnn(), PREPROCESSES["whole zero"], Embed.of("nhwc"))
    assert first_operators(rewritten) == ["Transpose", "Cast", "Sub", "Mul"]
    ringed, _ = embed(small_cnn(), IMAGENET, Embed.of("nhwc"))
    assert first_operators(ringed).count("Concat") >= 2


def test_a_convolution_without_pads_is_exact_whatever_the_means() -> None:
    model = small_cnn()
    model.graph.node[0].attribute[0].ints[:] = [0] * 4
    del model.graph.node[2:4]  # the residual sum
    model.graph.node[2].input[0] = "relu"
    rewritten, _ = embed(model, IMAGENET, Embed.of("nhwc"))
    assert first_operators(rewritten) == ["Transpose", "Cast", "Sub", "Mul"]
    got = run(rewritten, {"input": PIXELS})[0]
    assert sqnr_db(outside(model, IMAGENET), got) > 100


@pytest.mark.parametrize(("name", "image"), [("imagenet", "nhwc"), ("whole zero", "nchw-bgr")])
def test_pixels_are_the_codes_of_the_first_layer(name: str, image: str) -> None:
    settings = Settings(embed_preprocess=image)
    model, data = small_cnn(), as_image(PIXELS, "nhwc")
    result = convert(model, data, recipe="int8", preprocess=PREPROCESSES[name], settings=settings)
    before = first_operators(result.model)
    assert "QuantizeLinear" not in before
    assert "Cast" not in before
    assert before[-1] == "DequantizeLinear"
    expected = outside(model, PREPROCESSES[name])
    plain = convert(model, data, recipe="int8", preprocess=PREPROCESSES[name])
    inside = run(result.model, {"input": as_image(PIXELS, image)})[0]
    assert sqnr_db(expected, inside) > sqnr_db(expected, outside(plain.model, PREPROCESSES[name])) - 2


def test_every_reader_of_an_input_sees_its_pixels() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1] * 4),
        helper.make_node("Add", ["c", "x"], ["y"], "add"),
    ]
    model = make_model(
        nodes, {"w": random(3, 3, 3, 3)}, inputs={"x": ["n", 3, 12, 12]}, outputs={"y": ["n", 3, 12, 12]}
    )
    for preprocess in (IMAGENET, Preprocess()):
        result = convert(
            model, PIXELS, recipe="int8", preprocess=preprocess, settings=Settings(embed_preprocess="nhwc")
        )
        assert sqnr_db(outside(model, preprocess), run(result.model, {"x": PIXELS})[0]) > 25


@pytest.mark.parametrize(("recipe", "floor"), [("int4", 12), ("int4-weight-only", 12), ("int8-gptq", 25)])
def test_recipes(recipe: str, floor: float) -> None:
    result = convert(
        small_cnn(), PIXELS, recipe=recipe, preprocess=IMAGENET, settings=Settings(embed_preprocess="nhwc")
    )
    assert sqnr_db(outside(small_cnn(), IMAGENET), run(result.model, {"input": PIXELS})[0]) > floor


@pytest.mark.parametrize("target", ["tensorrt", "qnn", "generic"])
def test_targets(target: str) -> None:
    settings = Settings(embed_preprocess="nhwc")
    result = convert(small_cnn(), PIXELS, recipe="int8", target=target, preprocess=IMAGENET, settings=settings)
    pixels = PIXELS[:1] if target == "qnn" else PIXELS
    session = ort.SessionOptions()
    session.add_session_config_entry("session.qdqisint8allowed", "1")
    got = ort.InferenceSession(result.model.SerializeToString(), session).run(None, {"input": pixels})[0]
    assert sqnr_db(outside(small_cnn(), IMAGENET)[: len(pixels)], got) > 20


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("files")
    onnx.save(small_cnn(), folder / "float.onnx")
    settings = Settings(embed_preprocess="nhwc-bgr", class_index=True)
    convert(folder / "float.onnx", PIXELS, recipe="int8", preprocess=IMAGENET, settings=settings).save(
        folder / "inside.onnx"
    )
    return folder / "float.onnx", folder / "inside.onnx"


def test_a_file_gives_the_numbers_of_the_best_classes(files: tuple[Path, Path]) -> None:
    session = ort.InferenceSession(files[1])
    (output,) = session.get_outputs()
    assert (output.name, output.type, output.shape) == ("class_index", "tensor(int64)", ["n"])
    best = session.run(None, {"input": as_image(PIXELS, "nhwc-bgr")})[0]
    assert (best == outside(small_cnn(), IMAGENET).argmax(axis=1)).mean() > 0.8


def test_tools_feed_a_file_its_pixels_and_float_the_same_images(files: tuple[Path, Path]) -> None:
    labels = outside(small_cnn(), IMAGENET).argmax(axis=1)
    evaluation = converter.evaluate(files, (PIXELS, labels), latency=False)
    first, second = evaluation.models
    assert first.top1 == 1
    assert (second.sqnr_db or 0) > 25
    assert second.top1 == second.agreement
    assert first.bytes == files[0].stat().st_size
    assert converter.evaluate([files[1]], (PIXELS, labels), latency=False).models[0].top1 == second.top1
    comparison = converter.compare(*files, PIXELS[:8])
    assert comparison.sqnr_db > 25
    assert {name for layer in comparison.layers for name in layer.layers} >= {"stem", "fc"}
    verdict = converter.verify(files[1], "cpu", PIXELS[:8], reference=files[0])
    assert verdict.passed
    assert (verdict.float_db or 0) > 25
    embedded = converter.inspect(files[1]).model["embedded"]
    assert (embedded["layout"], embedded["channels"]) == ("nhwc", "bgr")


def test_a_model_without_images_beside_such_a_file_is_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    nodes = [helper.make_node("Gemm", ["input", "w"], ["output"], "fc")]
    rows = make_model(nodes, {"w": random(8, 5)}, inputs={"input": ["n", 8]}, outputs={"output": ["n", 5]})
    onnx.save(rows, tmp_path / "rows.onnx")
    with pytest.raises(UsageError, match=r"rows\.onnx: does not take the images of .*inside\.onnx, which has its"):
        converter.evaluate([files[1], tmp_path / "rows.onnx"], PIXELS, latency=False)


def test_the_size_of_images_follows_the_last_conversion(files: tuple[Path, Path]) -> None:
    """A file that is converted again with another resize says so, and not what the first conversion did."""
    large = PIXELS.repeat(2, axis=1).repeat(2, axis=2)
    resize = Preprocess(resize=(12, 12), interpolation="nearest")
    again = convert(files[1], large, preprocess=resize)
    stored = embedded_preprocess(again.model)
    assert stored is not None
    assert (stored.preprocess.resize, stored.preprocess.interpolation) == ((12, 12), "nearest")
    assert stored.preprocess.mean == IMAGENET.mean
    assert stored_preprocess(again.model).interpolation == "nearest"


def test_larger_images_are_resized_and_cropped_outside(files: tuple[Path, Path]) -> None:
    large = PIXELS.repeat(2, axis=1).repeat(2, axis=2)
    evaluation = converter.evaluate(
        files, large, latency=False, preprocess=Preprocess(resize=12, interpolation="nearest")
    )
    assert evaluation.models[1].sqnr_db == converter.evaluate(files, PIXELS, latency=False).models[1].sqnr_db


def test_a_file_is_converted_again(files: tuple[Path, Path]) -> None:
    kept = convert(files[1], recipe="keep")
    feeds = {"input": as_image(PIXELS, "nhwc-bgr")}
    assert (run(kept.model, feeds)[0] == ort.InferenceSession(files[1]).run(None, feeds)[0]).all()
    assert embedded_preprocess(kept.model) == embedded_preprocess(onnx.load(files[1]))
    again = convert(files[0], PIXELS, recipe=files[1])
    assert again.recipe.preprocess == IMAGENET


@pytest.mark.slow  # a search of several conversions
def test_a_budget_searches_files_with_preprocessing_inside() -> None:
    labels = outside(small_cnn(), IMAGENET).argmax(axis=1)
    settings = Settings(embed_preprocess="nhwc", class_index=True)
    result = converter.convert_within(
        small_cnn(), (PIXELS, labels), converter.Budget(max_drop=50), preprocess=IMAGENET, settings=settings
    )
    assert result.model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert result.model.graph.output[0].name == "class_index"
    assert embedded_preprocess(result.model) is not None


def two_images() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Add", ["a", "b"], ["s"]),
        helper.make_node("Conv", ["s", "w"], ["y"], "conv"),
    ]
    inputs: dict[str, list[Any]] = {"a": ["n", 3, 8, 8], "b": ["n", 3, 8, 8]}
    return make_model(nodes, {"w": random(2, 3, 1, 1)}, inputs=inputs, outputs={"y": ["n", 2, 8, 8]})


def vectors() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "fc")]
    return make_model(nodes, {"w": random(8, 4)}, inputs={"x": ["n", 8]}, outputs={"y": ["n", 4]})


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (two_images, {"embed_preprocess": "nhwc"}, "2 inputs of images: 'a' float32"),
        (vectors, {"embed_preprocess": "nhwc"}, "no input of floats with 1 or 3 channels: 'x' float32"),
        (small_cnn, {"embed_preprocess": "chw"}, "`embed_preprocess='chw'` is none of nhwc, nchw"),
        (small_cnn, {"embed_preprocess": 3}, "embed_preprocess"),
    ],
)
def test_refusals(model: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        convert(model(), PIXELS, settings=Settings(**settings))


def test_class_numbers_need_scores() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "fc")]
    model = make_model(nodes, {"w": random(8)}, inputs={"x": ["n", 8]}, outputs={"y": ["n"]})
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(random(8), "w"))
    with pytest.raises(UsageError, match=r"`class_index=True` needs scores .*'y' is float with 1 axes"):
        convert(model, np.ones((4, 8), np.float32), settings=Settings(class_index=True))


def test_floats_are_no_image() -> None:
    with pytest.raises(DataError, match="takes uint8"):
        convert(small_cnn(), random(40, 3, 12, 12), settings=Settings(embed_preprocess="nhwc"))


def test_damaged_metadata_are_named() -> None:
    model = small_cnn()
    model.metadata_props.add(key="convert_onnx.embedded", value='{"layout": "nwhc"}')
    with pytest.raises(DataError, match="do not describe preprocessing"):
        embedded_preprocess(model)
