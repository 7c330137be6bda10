"""Programs that run a file: the one in Python runs, and gives what the tools measure; the others have its facts."""

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
from converter.data.dataset import load_data
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


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
@pytest.mark.parametrize("name", ["centre", "letterbox", "bgr"])
def test_the_script_is_javascript(name: str, tmp_path: Path) -> None:
    (tmp_path / "page.mjs").write_text(converter.snippet(stored(tmp_path, name), "js"))
    subprocess.run(["node", "--check", str(tmp_path / "page.mjs")], check=True)


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
