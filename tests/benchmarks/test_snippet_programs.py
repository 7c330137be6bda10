"""Programs of `snippet` run in every language that this machine has, and give what the tools compute."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import ExifTags, Image, ImageCms

from benchmarks.photographs import EVALUATION
from benchmarks.shared_data import MissingData
from benchmarks.targets import __main__ as command
from benchmarks.targets import snippets
from benchmarks.targets.programs import LANGUAGES, run_program, why_no
from converter import Preprocess, input_specs
from converter.data.any_size import with_any_size
from converter.data.dataset import load_data
from converter.data.embedding import Embed, embed, store_embedded
from converter.data.preprocess import store_preprocess, stored_preprocess
from converter.qdq.class_index import with_class_index
from converter.runtime.runner import Runner
from tests.support.models import SIDE, make_model, small_cnn
from tests.support.networks import random

COLOURS: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
EXACT = 1e-4  # of the largest score: the programs divide in another order, or print six digits

languages = pytest.mark.parametrize(
    "language", [pytest.param(each, marks=[pytest.mark.slow] * (each in {"js", "cpp"})) for each in LANGUAGES]
)


def halves(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with float16 inputs and outputs."""
    graph = model.graph
    for node in graph.node:
        node.input[:] = [f"{name}_32" if name == "input" else name for name in node.input]
        node.output[:] = [f"{name}_32" if name == "output" else name for name in node.output]
    first = helper.make_node("Cast", ["input"], ["input_32"], to=TensorProto.FLOAT)
    last = helper.make_node("Cast", ["output_32"], ["output"], to=TensorProto.FLOAT16)
    nodes = [first, *graph.node, last]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    graph.ClearField("node")
    graph.node.extend(copies)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def stored(model: onnx.ModelProto, **preprocess: Any) -> onnx.ModelProto:
    store_preprocess(model, Preprocess(**preprocess))
    return model


def embedded(form: str, *, any_size: bool, **preprocess: Any) -> onnx.ModelProto:
    model, description = embed(small_cnn(), Preprocess(**COLOURS, **preprocess), Embed.of(form))
    store_embedded(model, description)
    return with_any_size(model) if any_size else model


def grey() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], "conv"),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Add", ["f", "numbers"], ["y"]),
    ]
    inputs: dict[str, list[Any]] = {"image": ["n", 1, SIDE, SIDE], "numbers": ["n", 4]}
    return make_model(nodes, {"w": random(4, 1, 3, 3)}, inputs=inputs, outputs={"y": ["n", 4]})


EXACT_FORMS = {  # images of the file's own size, or of any size where the file resizes them
    "float16": lambda: halves(stored(small_cnn(), **COLOURS)),
    "bgr": lambda: stored(small_cnn(), mean=(104.0, 117.0, 123.0), scale=255, channels="bgr"),
    "class of any size": lambda: with_class_index(embedded("nhwc", any_size=True, resize=14, crop=SIDE)),
    "scores of any size": lambda: embedded("nchw-bgr", any_size=True, letterbox=SIDE, pad=7),
    "grey": lambda: stored(grey(), std=(0.5,)),
}
RESIZED_FORMS = {  # of images 31 pixels high and 54 wide, or turned by 90 degrees
    "centre": lambda: stored(small_cnn(), **COLOURS, resize=14, crop=SIDE),
    "centre of a high image": lambda: stored(small_cnn(), **COLOURS, resize=15, crop=SIDE),
    "sides": lambda: stored(small_cnn(), **COLOURS, resize=(20, 16), crop=SIDE),
    "crop": lambda: stored(small_cnn(), **COLOURS, crop=SIDE),
    "letterbox": lambda: embedded("nhwc-bgr", any_size=False, letterbox=SIDE, pad=7),
}


def smooth(height: int, width: int) -> Image.Image:
    """A picture without edges, so that filters hardly differ. Its halves and colours do."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    parts = [np.sin(2 * y + channel) * np.cos(3 * x - channel) for channel in range(3)]
    return Image.fromarray((127.5 + 100 * np.stack(parts, -1)).round().astype(np.uint8))


def expected(path: Path, image: Image.Image) -> NDArray[np.float64]:
    """First output of a file on an image, as all tools run it."""
    model = onnx.load(path)
    specs = input_specs(model)
    mode = "L" if specs[0].image[0] == 1 else "RGB"
    pixels = np.asarray(image.convert(mode)).reshape(1, image.height, image.width, -1)
    arrays = {specs[0].name: pixels} | {spec.name: np.zeros((1, 4), np.float32) for spec in specs[1:]}
    data = load_data(arrays if specs[1:] else pixels, specs, preprocess=stored_preprocess(model))
    return np.asarray(Runner(path, "file").run(next(data.batches(1)))[0], np.float64).ravel()


def run_or_skip(path: Path, language: str, image: Image.Image) -> tuple[str, NDArray[np.float64]]:
    if why_no(language):
        pytest.skip(why_no(language))
    image.save(path.with_suffix(".png"))
    folder = path.parent / "program"
    folder.mkdir()
    ran = run_program(path, language, path.with_suffix(".png"), folder)
    return ran.printed, ran.values


@pytest.mark.parametrize("name", EXACT_FORMS)
@languages
def test_a_program_gives_what_the_tools_compute(name: str, language: str, tmp_path: Path) -> None:
    height, width = (29, 40) if "any size" in name else (SIDE, SIDE)
    noise = np.random.default_rng(5).integers(0, 256, (height, width, 3)).astype(np.uint8)
    onnx.save(EXACT_FORMS[name](), tmp_path / "model.onnx")
    image = Image.fromarray(noise)
    wanted = expected(tmp_path / "model.onnx", image)
    printed, values = run_or_skip(tmp_path / "model.onnx", language, image)
    if name == "float16" and language != "python":
        values = values.astype(np.uint16).view(np.float16).astype(np.float64)
    assert np.abs(values - wanted).max() <= (1e-3 if name == "float16" else EXACT) * np.abs(wanted).max()
    assert printed == str(int(wanted[0]) if wanted.size == 1 else wanted.argmax())


@pytest.mark.parametrize("name", RESIZED_FORMS)
@languages
def test_a_program_places_an_image_as_the_tools_do(name: str, language: str, tmp_path: Path) -> None:
    size = (54, 31) if "high" in name else (31, 54)
    onnx.save(RESIZED_FORMS[name](), tmp_path / "model.onnx")
    wanted = expected(tmp_path / "model.onnx", smooth(*size))
    _, values = run_or_skip(tmp_path / "model.onnx", language, smooth(*size))
    assert np.abs(values - wanted).max() <= 0.02 * np.abs(wanted).max()


def profile() -> bytes:
    """A colour profile that exchanges red and green."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = data.find(b"rXYZ"), data.find(b"gXYZ")
    data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(data)


@pytest.mark.parametrize("turned", [False, True])
@languages
def test_a_program_decodes_a_photograph_as_pillow_does(language: str, turned: bool, tmp_path: Path) -> None:
    """JPEG with fewer pixels of colour, a profile, and the orientation of a camera that was held upright."""
    if turned and language == "js":
        pytest.skip("Chromium turns images whatever the page asks for")
    if why_no(language):
        pytest.skip(why_no(language))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6 if turned else 1
    smooth(31, 54).save(tmp_path / "photo.jpg", quality=80, icc_profile=profile(), exif=exif)
    onnx.save(embedded("nhwc", any_size=True, resize=14, crop=SIDE), tmp_path / "model.onnx")
    with Image.open(tmp_path / "photo.jpg") as image:
        wanted = expected(tmp_path / "model.onnx", image)
    (tmp_path / "program").mkdir()
    ran = run_program(tmp_path / "model.onnx", language, tmp_path / "photo.jpg", tmp_path / "program")
    assert np.abs(ran.values - wanted).max() <= EXACT * np.abs(wanted).max()


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(small_cnn(), tmp_path / "model.onnx")
    smooth(SIDE, SIDE).save(tmp_path / "image.png")
    monkeypatch.setenv("PATH", "")
    for language, word in (("node", "node"), ("cpp", r"g\+\+"), ("js", "none of chromium")):
        with pytest.raises(MissingData, match=f"^{word}"):
            run_program(tmp_path / "model.onnx", language, tmp_path / "image.png", tmp_path)


def test_more_photographs_are_spread_over_the_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(10):
        (tmp_path / "imagenet_sample" / f"{index:04}").mkdir(parents=True)
        smooth(8, 8).save(tmp_path / "imagenet_sample" / f"{index:04}" / "0.jpg")
    monkeypatch.setenv("CONVERT_ONNX_DATA", str(tmp_path))
    given: list[tuple[list[str], list[str]]] = []

    def measured(_: Path, images: list[Path], languages: list[str]) -> list[object]:
        given.append(([image.parent.name for image in images], languages))
        return []

    monkeypatch.setattr(snippets, "install", lambda *_: None)
    monkeypatch.setattr(snippets, "_measured", measured)
    assert command.main(["snippets", "--images", "4", "--languages", "python"]) == 0
    ((folders, languages),) = given
    assert (folders[len(EVALUATION) :], languages) == (["0000", "0002", "0005", "0007"], ["python"])


@pytest.mark.parametrize(
    ("form", "language", "same", "difference", "failed"),
    [
        ("any size", "node", 5, 0.0, False),
        ("any size", "node", 5, 0.01, True),
        ("any size", "js", 5, 0.01, False),  # WebAssembly has kernels of its own
        ("any size", "js", 4, 0.01, True),
        ("embedded", "node", 4, 0.1, False),
    ],
)
def test_a_program_fails_where_the_file_resizes(
    form: str, language: str, same: int, difference: float, failed: bool
) -> None:
    assert snippets._Row(form, language, 5, same, difference).failed == failed
