"""Files that take images of any size: the same pixels as resizing outside, to within one step of uint8."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

import converter
from converter import Preprocess, Settings
from converter.data.any_size import ANY_SIZE_KEY, require_any_size, with_any_size, without_any_size
from converter.data.embedding import Embed, embed, store_embedded
from converter.data.preprocess import stored_preprocess
from converter.runtime.session import open_session
from passes.errors import ModelError, UsageError
from tests.support.models import small_cnn

SIDE = 12  # of the model
FITS = {
    "resize and crop": Preprocess(resize=14, crop=SIDE),
    "odd crop": Preprocess(resize=15, crop=SIDE),
    "sides": Preprocess(resize=(SIDE, SIDE)),
    "letterbox": Preprocess(letterbox=SIDE),
    "letterbox 7": Preprocess(letterbox=SIDE, pad=7),
}
SIZES = [(12, 12), (13, 29), (40, 17), (480, 640), (17, 12), (14, 14), (99, 15)]  # height, width


def image(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng([height, width]).integers(0, 256, (1, height, width, 3)).astype(np.uint8)


def any_size(fit: Preprocess, form: str = "nhwc") -> onnx.ModelProto:
    model, embedded = embed(small_cnn(), fit, Embed.of(form))
    store_embedded(model, embedded)
    return with_any_size(model)


def fitted(model: onnx.ModelProto) -> Any:
    """Return a session that gives the pixels that the model itself reads."""
    inner = next(entry.value for entry in model.metadata_props if entry.key == ANY_SIZE_KEY)
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.append(next(value for value in model.graph.value_info if value.name == inner))
    return open_session(shown)


@pytest.mark.parametrize("form", ["nhwc", "nchw"])
@pytest.mark.parametrize("name", FITS)
def test_pixels_are_those_of_resizing_outside(name: str, form: str) -> None:
    model = any_size(FITS[name], form)
    onnx.checker.check_model(model, full_check=True)
    session = fitted(model)
    for height, width in SIZES:
        pixels = image(height, width)
        expected = FITS[name].fit(pixels, 3).astype(int)
        given = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)) if form == "nchw" else pixels
        found = session.run(None, {"input": given})[0]
        found = found.transpose(0, 2, 3, 1) if form == "nchw" else found
        assert np.abs(found.astype(int) - expected).max() <= 1, (height, width)


def test_several_images_of_one_size() -> None:
    pixels = np.concatenate([image(20, 31)] * 3)
    assert fitted(any_size(FITS["sides"])).run(None, {"input": pixels})[0].shape == (3, SIDE, SIDE, 3)


def test_the_file_says_what_is_left_and_can_be_judged_at_its_own_size() -> None:
    fit = Preprocess(resize=14, crop=SIDE, mean=(0.5,), channels="bgr")
    model = any_size(fit, "nhwc-bgr")
    assert stored_preprocess(model) == Preprocess(channels="bgr")
    back = without_any_size(model)
    assert stored_preprocess(back) == Preprocess(resize=14, crop=SIDE, channels="bgr")
    plain, embedded = embed(small_cnn(), fit, Embed.of("nhwc-bgr"))
    store_embedded(plain, embedded)
    assert back.graph.SerializeToString() == plain.graph.SerializeToString()


def test_names_of_the_model_are_no_sign_of_these_nodes() -> None:
    plain, embedded = embed(small_cnn(), Preprocess(resize=14, crop=SIDE), Embed.of("nhwc"))
    store_embedded(plain, embedded)
    for tensor in plain.graph.initializer:
        for node in plain.graph.node:
            node.input[:] = [f"image_fit_{name}" if name == tensor.name else name for name in node.input]
        tensor.name = f"image_fit_{tensor.name}"
    for node in plain.graph.node:
        node.name = f"image_fit_{node.name}"
    back = without_any_size(with_any_size(plain))
    assert back.graph.SerializeToString() == plain.graph.SerializeToString()


@pytest.mark.parametrize(
    ("fit", "form", "fixed", "why"),
    [
        pytest.param(Preprocess(crop=4), None, False, "needs `embed_preprocess=`", id="outside"),
        pytest.param(Preprocess(crop=4), "nhwc", True, "the target needs fixed shapes", id="fixed"),
        pytest.param(Preprocess(), "nhwc", False, "needs `resize=` or `letterbox=`", id="nothing"),
        pytest.param(Preprocess(crop=4), "nhwc", False, "needs `resize=` or `letterbox=`", id="crop alone"),
        pytest.param(
            Preprocess(resize=4, interpolation="bicubic"), "nhwc", False, "as Pillow's bicubic filter does", id="filter"
        ),
    ],
)
def test_what_the_graph_cannot_do_is_refused(fit: Preprocess, form: str | None, fixed: bool, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        require_any_size(fit, form, fixed=fixed)


def test_from_photographs_to_a_file_that_takes_them(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for index in range(12):
        size = draw.integers(14, 30, 2)
        Image.fromarray(image(int(size[0]), int(size[1]))[0]).save(tmp_path / f"{index}.png")
    fit, path = Preprocess(resize=14, crop=SIDE, mean=(0.5,), std=(0.25,)), tmp_path / "any.onnx"
    settings = Settings(embed_preprocess="nhwc", embed_resize=True)
    onnx.save(small_cnn(), tmp_path / "float.onnx")
    result = converter.convert(tmp_path / "float.onnx", tmp_path, preprocess=fit, settings=settings)
    result.save(path)
    outputs = open_session(path).run(None, {"input": image(25, 40)})[0]
    assert outputs.shape[0] == 1
    verification = converter.verify(path, "cpu", tmp_path, reference=tmp_path / "float.onnx", min_agreement=0.0)
    assert verification.passed, verification.failures
    program = converter.snippet(path)
    assert "resize" not in program
    assert "any height and width" in program
    assert "the file takes any size" in converter.snippet(path, "rust")
    with pytest.raises(ModelError, match="resizes its images inside; convert the float model"):
        converter.convert(path, tmp_path)
    with pytest.raises(UsageError, match="the target needs fixed shapes"):
        converter.convert(small_cnn(), tmp_path, target="qnn", preprocess=fit, settings=settings)
