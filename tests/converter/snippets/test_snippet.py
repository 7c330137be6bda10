"""Programs that run a file: the one in Python runs, and gives what the tools measure; the others have its facts."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

import converter
from converter import Preprocess, Settings, convert
from converter.data.any_size import with_any_size
from converter.data.dataset import load_data
from converter.data.embedding import Embed, embed, store_embedded
from converter.data.preprocess import store_preprocess, stored_preprocess
from converter.qdq.class_index import with_class_index
from converter.runtime.runner import Runner
from converter.snippets.snippet import LANGUAGES
from passes.errors import UsageError
from tests.support.command_line import run
from tests.support.models import make_model, small_cnn
from tests.support.networks import random

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
FORMS: dict[str, dict[str, Any]] = {
    "centre": {**IMAGENET, "resize": 14, "crop": 12},
    "whole": {**IMAGENET, "resize": (12, 12), "interpolation": "bicubic"},
    "letterbox": {"mean": (0.5,), "letterbox": 12, "pad": 7},
    "bgr": {"mean": (104.0, 117.0, 123.0), "scale": 255, "channels": "bgr", "resize": 12, "crop": 12},
    "none": {},
}
PHOTO = np.random.default_rng(3).integers(0, 256, (9, 13, 3)).astype(np.uint8)


def photo(folder: Path) -> Path:
    """A photograph, not square, in a file without loss."""
    path = folder / "image.jpg"
    with path.open("wb") as file:
        Image.fromarray(PHOTO).resize((39, 27)).save(file, "png")
    return path


def stored(folder: Path, name: str, model: onnx.ModelProto | None = None) -> Path:
    model = small_cnn() if model is None else model
    store_preprocess(model, Preprocess(**FORMS[name]))
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def executed(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the program in Python leaves."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile(program, "snippet.py", "exec"), names)
    return names


def expected(path: Path, image: Path) -> np.ndarray:
    """First output of a file on a photograph, as all tools run it."""
    model = onnx.load(path)
    data = load_data(image.parent, converter.input_specs(model), preprocess=stored_preprocess(model))
    return np.asarray(Runner(path, "file").run(next(data.batches(1)))[0])


@pytest.mark.parametrize("name", FORMS)
def test_the_python_program_gives_what_the_tools_measure(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image, path = photo(tmp_path), stored(tmp_path, name)
    if name == "none":  # then an image has to have the size already
        Image.open(image).resize((12, 12)).save(image, "png")
    names = executed(converter.snippet(path), tmp_path, monkeypatch)
    wanted = expected(path, image)
    assert (names["outputs"][0] == wanted).all()
    assert capsys.readouterr().out == f"{wanted[0].argmax()}\n"


@pytest.mark.parametrize("image_form", ["nhwc", "nchw-bgr"])
def test_a_file_with_its_preprocessing_inside(
    image_form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image, path = photo(tmp_path), tmp_path / "deployed.onnx"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 12, 12, 3)).astype(np.uint8)
    settings = Settings(embed_preprocess=image_form, class_index=True)
    convert(small_cnn(), pixels, preprocess=Preprocess(**FORMS["centre"]), settings=settings).save(path)
    program = converter.snippet(path)
    assert "mean" not in program
    executed(program, tmp_path, monkeypatch)
    assert capsys.readouterr().out == f"{int(expected(path, image)[0])}\n"


def two_inputs() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], "conv"),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Add", ["f", "numbers"], ["y"]),
    ]
    inputs: dict[str, list[Any]] = {"image": ["n", 3, 8, 8], "numbers": ["n", 4]}
    return make_model(nodes, {"w": random(4, 3, 3, 3)}, inputs=inputs, outputs={"y": ["n", 4]})


def test_other_inputs_are_numbers_to_fill_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path)
    onnx.save(two_inputs(), tmp_path / "model.onnx")
    names = executed(converter.snippet(tmp_path / "model.onnx"), tmp_path, monkeypatch)
    assert names["outputs"][0].shape == (1, 4)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", ["centre", "letterbox", "bgr"])
def test_every_language_names_what_the_file_needs(name: str, language: str, tmp_path: Path) -> None:
    program = converter.snippet(stored(tmp_path, name), language)
    assert "model.onnx" in program
    assert '"input"' in program
    for number in FORMS[name]["mean"]:
        assert f"{float(number)!r}" in program
    for opening, closing in ("()", "[]", "{}"):
        assert program.count(opening) == program.count(closing)
    if name == "letterbox":
        assert "7" in program
    assert ("255" in program) == (name != "bgr") or language == "android"  # it takes pixels out of integers with 255


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_prints_a_class_number(language: str, tmp_path: Path) -> None:
    onnx.save(with_class_index(small_cnn()), tmp_path / "model.onnx")
    assert "number of the class" in converter.snippet(tmp_path / "model.onnx", language)


@pytest.mark.parametrize(("target", "words"), [("cuda", "CUDAExecutionProvider"), ("openvino", "OpenVINO")])
def test_the_provider_is_that_of_the_target(target: str, words: str, tmp_path: Path) -> None:
    model = small_cnn()
    model.metadata_props.add(key="convert_onnx.target", value=target)
    onnx.save(model, tmp_path / "model.onnx")
    assert words in converter.snippet(tmp_path / "model.onnx")
    assert target.upper() in converter.snippet(tmp_path / "model.onnx", "cpp").upper()


@pytest.mark.parametrize(
    ("target", "providers"),
    [
        ("openvino-npu", '[("OpenVINOExecutionProvider", {"device_type": "NPU"}), "CPUExecutionProvider"]'),
        ("coreml", '[("CoreMLExecutionProvider", {"ModelFormat": "MLProgram"}), "CPUExecutionProvider"]'),
        ("directml", '["DmlExecutionProvider", "CPUExecutionProvider"]'),
    ],
)
def test_a_provider_has_the_options_that_the_target_needs(target: str, providers: str, tmp_path: Path) -> None:
    """Without its device, OpenVINO would run the file on the CPU, so a language without options has no provider."""
    model = small_cnn()
    model.metadata_props.add(key="convert_onnx.target", value=target)
    onnx.save(model, tmp_path / "model.onnx")
    assert f"providers={providers})" in converter.snippet(tmp_path / "model.onnx")
    assert "OpenVINO" not in converter.snippet(tmp_path / "model.onnx", "cpp")


def any_size(folder: Path, image_form: str) -> Path:
    model, description = embed(small_cnn(), Preprocess(**FORMS["centre"]), Embed.of(image_form))
    store_embedded(model, description)
    onnx.save(with_any_size(model), folder / "model.onnx")
    return folder / "model.onnx"


SHAPES = {  # of one image [1, h, w, 3] and [1, 3, h, w] with the height and width of the decoded image
    "python": ("np.ascontiguousarray(pixels[None], np.uint8)", "pixels.transpose(2, 0, 1)[None], np.uint8)"),
    "cpp": ("shape[] = {1, height, width, 3}", "shape[] = {1, 3, height, width}"),
    "js": ('"uint8", values, [1, height, width, 3]', '"uint8", values, [1, 3, height, width]'),
    "node": ('"uint8", values, [1, height, width, 3]', '"uint8", values, [1, 3, height, width]'),
    "csharp": ("DenseTensor<byte>(pixels, new[] { 1, height, width, 3 })", "<byte>(new[] { 1, 3, height, width })"),
    "android": (
        "longArrayOf(1, height.toLong(), width.toLong(), 3), OnnxJavaType.UINT8",
        "longArrayOf(1, 3, height.toLong(), width.toLong()), OnnxJavaType.UINT8",
    ),
    "rust": ("ArrayD::<u8>::from_shape_vec(shape, image.into_raw())?;\n    let outputs", "vec![0, 3, 1, 2]"),
}
SIZES = {  # where the height comes from
    "python": "np.asarray(image, np.uint8)",
    "cpp": "height = image.rows",
    "js": "const { width, height } = image;",
    "node": "const { width, height } = image;",
    "csharp": "height = image.Height",
    "android": "val height = image.height",
    "rust": "let (width, height) = image.dimensions();",
}
TURNED = {  # how colours become blue, green and red
    "python": "[..., ::-1]",
    "js": "rgba[4 * at + 2 - c]",
    "node": "rgb[3 * at + 2 - c]",
    "csharp": "tensor[0, 0, y, x] = pixel.B;",
    "android": "argb[at] shr (8 * c)",
    "rust": "pixel.0.reverse();",
}


def balanced(program: str) -> bool:
    return all(program.count(opening) == program.count(closing) for opening, closing in ("()", "[]", "{}"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_gives_a_file_of_any_size_the_image_as_it_is(language: str, tmp_path: Path) -> None:
    for image_form, shape in zip(("nhwc", "nchw"), SHAPES[language], strict=True):
        program = converter.snippet(any_size(tmp_path, image_form), language)
        assert shape in program
        assert SIZES[language] in program
        assert '"input"' in program
        assert balanced(program)
        assert not re.search(r"\b1[24]\b|resize|crop|mean", program, re.IGNORECASE)  # 12, 14: its own sizes


@pytest.mark.parametrize("language", TURNED)
def test_colours_of_a_file_of_any_size_are_in_its_order(language: str, tmp_path: Path) -> None:
    assert TURNED[language] in converter.snippet(any_size(tmp_path, "nchw-bgr"), language)
    assert TURNED[language] not in converter.snippet(any_size(tmp_path, "nchw"), language)


def test_opencv_gives_bgr_as_it_is(tmp_path: Path) -> None:
    assert "BGR2RGB" in converter.snippet(any_size(tmp_path, "nhwc"), "cpp")
    assert "BGR2RGB" not in converter.snippet(any_size(tmp_path, "nhwc-bgr"), "cpp")


def test_imagesharp_copies_pixels_that_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    assert "Image.Load<Rgb24>" in converter.snippet(any_size(tmp_path, "nhwc"), "csharp")
    assert "Image.Load<Bgr24>" in converter.snippet(any_size(tmp_path, "nhwc-bgr"), "csharp")
    assert "Image.Load<Rgb24>" in converter.snippet(any_size(tmp_path, "nchw-bgr"), "csharp")  # which it takes apart


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("js", 'colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "none"'),
        ("node", "ignoreIcc: true"),
        ("cpp", "cv::IMREAD_IGNORE_ORIENTATION"),
    ],
)
@pytest.mark.parametrize("resized_inside", [True, False])
def test_pixels_are_decoded_as_they_are_stored(language: str, words: str, resized_inside: bool, tmp_path: Path) -> None:
    """As Pillow does: no colour profile is applied, and the orientation of the camera is left alone."""
    path = any_size(tmp_path, "nhwc") if resized_inside else stored(tmp_path, "centre")
    assert words in converter.snippet(path, language)


@pytest.mark.parametrize(
    ("interpolation", "words"),
    [
        (None, 'imageSmoothingQuality = "medium"'),
        ("bicubic", 'imageSmoothingQuality = "high"'),
        ("nearest", "imageSmoothingEnabled = false"),
    ],
)
def test_a_canvas_resizes_with_the_filter_nearest_to_that_of_the_file(
    interpolation: str | None, words: str, tmp_path: Path
) -> None:
    model = small_cnn()
    store_preprocess(model, Preprocess(resize=12, crop=12, interpolation=interpolation))
    onnx.save(model, tmp_path / "model.onnx")
    assert words in converter.snippet(tmp_path / "model.onnx", "js")


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
@pytest.mark.parametrize("language", ["js", "node"])
@pytest.mark.parametrize("name", ["centre", "letterbox", "bgr", "any size"])
def test_the_script_is_javascript(name: str, language: str, tmp_path: Path) -> None:
    path = any_size(tmp_path, "nchw-bgr") if name == "any size" else stored(tmp_path, name)
    (tmp_path / "page.mjs").write_text(converter.snippet(path, language))
    subprocess.run(["node", "--check", str(tmp_path / "page.mjs")], check=True)


@pytest.mark.skipif(shutil.which("rustfmt") is None, reason="there is no rustfmt")
@pytest.mark.parametrize("name", ["centre", "letterbox", "bgr", "any size"])
def test_the_program_in_rust_can_be_parsed(name: str, tmp_path: Path) -> None:
    path = any_size(tmp_path, "nchw-bgr") if name == "any size" else stored(tmp_path, name)
    program = converter.snippet(path, "rust")
    subprocess.run(["rustfmt", "--edition", "2021"], input=program, text=True, check=True, capture_output=True)


def test_rust_writes_each_pixel_where_it_belongs(tmp_path: Path) -> None:
    assert "tensor[[0, c, y, x]] = " in converter.snippet(stored(tmp_path, "centre"), "rust")


def test_the_command_prints_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(tmp_path, "centre")
    monkeypatch.chdir(tmp_path)
    result = run("snippet", "model.onnx", "--for", "rust")
    assert (result.exit_code, result.stdout) == (0, converter.snippet(path, "rust"))


@pytest.mark.parametrize("language", ["csharp", "android", "rust"])
def test_float16_is_refused_where_no_program_makes_it(tmp_path: Path, language: str) -> None:
    model = small_cnn()
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(UsageError, match=f"programs in {language} do not make; use python, cpp, js, node$"):
        converter.snippet(tmp_path / "model.onnx", language)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`language='go'` is none of python, cpp"):
        converter.snippet("model.onnx", "go")
    model = small_cnn()
    for axis, size in ((0, 4), (2, 0)):
        dim = model.graph.input[0].type.tensor_type.shape.dim[axis]
        dim.Clear()
        if size:
            dim.dim_value = size
        onnx.save(model, tmp_path / "model.onnx")
        words = "takes 4 images at once" if size else "takes images of any size"
        with pytest.raises(UsageError, match=words):
            converter.snippet(tmp_path / "model.onnx")
        dim.Clear()
        dim.dim_param = "n" if axis == 0 else "h"


@pytest.mark.parametrize("language", ["rust", "csharp", "android", "cpp", "js", "node"])
def test_whole_numbers_are_floats_where_a_quotient_is_rounded(tmp_path: Path, language: str) -> None:
    """`12 * width / longer` would be cut off in Rust, C#, Kotlin and C++."""
    assert "12.0 * " in converter.snippet(stored(tmp_path, "letterbox"), language)
    assert "14 * " in converter.snippet(stored(tmp_path, "centre"), language)  # `Preprocess` cuts it off, too
