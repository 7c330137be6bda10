"""Inputs of a model, and how pixels become such inputs: layouts, arithmetic, and every refusal."""

import re
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from PIL import Image

from converter.data.dataset import Dataset, load_data
from converter.data.inputs import InputSpec, input_specs
from converter.data.preprocess import METADATA_KEY, Preprocess, stored_preprocess
from passes.errors import DataError, ModelError, UsageError

FLOAT = np.dtype(np.float32)
RGB8 = (InputSpec("image", (None, 3, 8, 8), FLOAT),)
GREY8 = (InputSpec("image", (None, 1, 8, 8), FLOAT),)
NONE = Preprocess()


def pixels(count: int, side: int = 8, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def everything(data: Dataset) -> NDArray[Any]:
    return np.concatenate([next(iter(batch.feeds.values()))[: batch.count] for batch in data.batches(3)])


# --- inputs ----------------------------------------------------------------------------------------------------------


def tiny_model(shape: list[int | str], name: str = "image") -> onnx.ModelProto:
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Add", [name, "w"], ["out"])],
        "tiny",
        [helper.make_tensor_value_info(name, 1, shape), helper.make_tensor_value_info("w", 1, [1])],
        [helper.make_tensor_value_info("out", 1, None)],
        [helper.make_tensor("w", 1, [1], [1.0])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_input_specs_are_the_same_from_proto_and_session_and_leave_initializers_out() -> None:
    model = tiny_model(["n", 3, "h", 8])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = (InputSpec("image", (None, 3, None, 8), FLOAT),)
    assert input_specs(model) == input_specs(session) == expected


def test_input_without_shape_is_refused() -> None:
    model = tiny_model([1])
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="input 'image' has no shape; export the model with"):
        input_specs(model)


def test_input_that_is_no_tensor_is_refused() -> None:
    model = tiny_model([1])
    model.graph.input[0].type.Clear()
    with pytest.raises(ModelError, match="input 'image' is not a tensor"):
        input_specs(model)


@pytest.mark.parametrize(
    ("shape", "image"),
    [((None, 3, 5, 7), (3, 5, 7)), ((None, 5, 7, 3), (3, 5, 7)), ((1, None, None, None), (None, None, None))],
    ids=["nchw", "nhwc", "dynamic"],
)
def test_image_layout_is_seen_in_the_shape(shape: tuple[int | None, ...], image: tuple[int | None, ...]) -> None:
    assert InputSpec("x", shape, FLOAT).image == image


# --- preprocessing ---------------------------------------------------------------------------------------------------


def test_preprocess_survives_json() -> None:
    settings = Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 256, 224)
    assert Preprocess.from_json(settings.to_json()) == settings
    assert Preprocess.from_json(NONE.to_json()) == NONE


def test_preprocess_is_read_from_model_and_session() -> None:
    settings = Preprocess(mean=(0.5,), crop=8)
    model = tiny_model(["n", 3, 8, 8])
    assert stored_preprocess(model) == NONE
    onnx.helper.set_model_props(model, {METADATA_KEY: settings.to_json()})
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert stored_preprocess(model) == stored_preprocess(session) == settings


def test_merge_lets_the_override_win_field_by_field() -> None:
    stored = Preprocess((0.5,), (0.25,), 256, 224)
    assert stored.merge(Preprocess(mean=(0.1,), resize=240)) == Preprocess((0.1,), (0.25,), 240, 224)
    assert stored.merge(NONE) == stored


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": (0.1, 0.2)}, "mean 0.1,0.2 has 2 values; give 1 or 3"),
        ({"mean": ("a",)}, "mean a is not a list of numbers"),
        ({"mean": (123.675, 116.28, 103.53)}, "mean 123.675,116.28,103.53 is not on the 0..1 scale; divide it by 255"),
        ({"mean": (float("nan"),)}, "mean nan is not finite"),
        ({"std": (0.2, 0.0, 0.2)}, "std 0.2,0.0,0.2 is not above 0"),
        ({"std": (-0.2,)}, "std -0.2 is not above 0"),
        ({"mean": (0.5,), "std": (0.2, 0.2, 0.2)}, "mean 0.5 and std 0.2,0.2,0.2 are 1 and 3 numbers; give both"),
        ({"resize": 0}, "resize 0 is not a positive number of pixels"),
        ({"crop": 2.5}, "crop 2.5 is not a positive number of pixels"),
        ({"crop": True}, "crop True is not a positive number"),
        ({"resize": 200, "crop": 224}, "crop 224 is larger than resize 200"),
    ],
)
def test_preprocess_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        Preprocess(**fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not an object of mean, std, resize, crop"),
        ('{"zoom": 1}', "is not an object of"),
    ],
)
def test_stored_preprocess_that_is_something_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Preprocess.from_json(text)


def test_uint8_becomes_scaled_normalized_nchw() -> None:
    images = pixels(2)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    data = load_data(images, RGB8, preprocess=Preprocess(tuple(mean), tuple(std)))
    expected = ((images / 255 - mean) / std).transpose(0, 3, 1, 2)
    actual = everything(data)
    assert actual.dtype == np.float32
    assert actual.flags.c_contiguous
    assert np.abs(actual - expected).max() < 1e-6 * np.abs(expected).max()  # float32 rounding


def test_channels_last_model_keeps_the_channels_last() -> None:
    images = pixels(2)
    data = load_data(images, (InputSpec("image", (None, 8, 8, 3), FLOAT),), preprocess=NONE)
    assert np.array_equal(everything(data), images.astype(np.float32) / np.float32(255))


def test_uint8_model_takes_the_pixels_themselves() -> None:
    images, dtype = pixels(2), np.dtype(np.uint8)
    last = load_data(images, (InputSpec("image", (None, 8, 8, 3), dtype),), preprocess=NONE)
    first = load_data(images, (InputSpec("image", (None, 3, 8, 8), dtype),), preprocess=NONE)
    assert np.array_equal(everything(last), images)
    assert np.array_equal(everything(first), images.transpose(0, 3, 1, 2))


def test_float16_model_gets_float16_images() -> None:
    data = load_data(pixels(2), (InputSpec("image", (None, 3, 8, 8), np.dtype(np.float16)),), preprocess=NONE)
    assert everything(data).dtype == np.float16


def test_resize_takes_the_shorter_side_and_crop_the_centre() -> None:
    assert Preprocess(resize=256).output_size(500, 375) == (341, 256)
    assert Preprocess(resize=256).output_size(375, 500) == (256, 341)
    assert Preprocess(resize=256, crop=224).output_size(500, 375) == (224, 224)
    image = np.zeros((1, 6, 10, 3), np.uint8)
    image[:, 1:5, 3:7] = 255
    data = load_data(image, (InputSpec("image", (None, 3, 4, 4), FLOAT),), preprocess=Preprocess(crop=4))
    assert (everything(data) == 1).all()


def test_resize_is_pillows_bilinear() -> None:
    image = pixels(1, side=16)
    data = load_data(image, RGB8, preprocess=Preprocess(resize=8))
    expected = np.asarray(Image.fromarray(image[0]).resize((8, 8), Image.Resampling.BILINEAR))
    assert np.array_equal(everything(data)[0], expected.transpose(2, 0, 1).astype(np.float32) / np.float32(255))


def test_grey_is_repeated_and_rgb_becomes_luma() -> None:
    grey = pixels(2, channels=1)
    actual = everything(load_data(grey, RGB8, preprocess=NONE))
    assert np.array_equal(actual[:, :1].repeat(3, 1), actual)
    red = np.zeros((1, 8, 8, 3), np.uint8)
    red[..., 0] = 255
    assert (everything(load_data(red, GREY8, preprocess=NONE)) == np.float32(76 / 255)).all()  # 0.299 * 255


def test_mean_of_three_for_a_grey_model_is_refused() -> None:
    with pytest.raises(UsageError, match=r"mean has 3 values, input 'image' float32 \[\?, 1, 8, 8\] takes 1 channels"):
        load_data(pixels(2, channels=1), GREY8, preprocess=Preprocess(mean=(0.1, 0.2, 0.3)))


def test_mean_for_a_uint8_model_is_refused() -> None:
    with pytest.raises(UsageError, match="takes uint8 pixels as they are; leave out `mean=`"):
        load_data(
            pixels(2), (InputSpec("image", (None, 3, 8, 8), np.dtype(np.uint8)),), preprocess=Preprocess(mean=(0.5,))
        )


def test_inputs_of_integers_get_pixels_as_they_are() -> None:
    pixels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    for kind in (np.uint8, np.int32, np.int64):
        spec = InputSpec("x", (None, 3, 4, 4), np.dtype(kind))
        given = Preprocess().tensor(pixels, spec)
        assert given.dtype == kind
        np.testing.assert_array_equal(given, pixels.transpose(0, 3, 1, 2))
        with pytest.raises(UsageError, match=f"takes {np.dtype(kind)} pixels as they are; leave out `mean=`"):
            Preprocess(mean=(0.5,)).check_channels(spec, 3)


# --- letterbox, colours, scale ---------------------------------------------------------------------------------------


def test_a_letterbox_pads_both_sides() -> None:
    image = np.full((1, 4, 8, 3), 200, np.uint8)
    square = Preprocess(letterbox=8, pad=7).fit(image, 3)
    assert square.shape == (1, 8, 8, 3)
    assert (square[0, 2:6] == 200).all()
    assert (square[0, :2] == 7).all()
    assert (square[0, 6:] == 7).all()
    assert (Preprocess(letterbox=16).fit(image, 3)[0, 4:12] == 200).all()  # enlarged
    assert (Preprocess(letterbox=8).fit(image, 3)[0, 0] == 114).all()


def test_bgr_is_the_order_of_the_model() -> None:
    image = np.arange(3, dtype=np.uint8).reshape(1, 1, 1, 3).repeat(8, 1).repeat(8, 2)
    for size in (
        Preprocess(channels="bgr"),
        Preprocess(channels="bgr", resize=4),
        Preprocess(channels="bgr", letterbox=4),
    ):
        assert size.fit(image, 3)[0, 0, 0].tolist() == [2, 1, 0]
    assert Preprocess(channels="rgb").fit(image, 3)[0, 0, 0].tolist() == [0, 1, 2]
    assert Preprocess(channels="bgr").fit(image[..., :1], 1)[0, 0, 0].tolist() == [0]


def test_pixels_on_the_255_scale() -> None:
    image = np.full((1, 8, 8, 3), 255, np.uint8)
    spec = RGB8[0]
    scaled = Preprocess(mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395), scale=255).tensor(image, spec)
    np.testing.assert_allclose(
        scaled[0, :, 0, 0], (255 - np.array([103.53, 116.28, 123.675])) / [57.375, 57.12, 58.395], rtol=1e-6
    )
    assert Preprocess(scale=255).tensor(image, spec).max() == 255
    assert Preprocess(scale=1).tensor(image, spec).max() == 1


def test_height_and_width() -> None:
    wide = Preprocess(resize=(4, 6))
    assert wide.fit(pixels(2), 3).shape == (2, 4, 6, 3)
    assert wide.output_size(100, 10) == (6, 4)
    assert not np.array_equal(
        Preprocess(resize=4, interpolation="nearest").fit(pixels(1), 3), Preprocess(resize=4).fit(pixels(1), 3)
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"letterbox": 8, "resize": 8}, "letterbox 8 sets the size, and so does resize; give one"),
        ({"pad": 3}, "pad 3 is for letterbox"),
        ({"letterbox": 8, "pad": 256}, "pad 256 is not 0 to 255"),
        ({"channels": "gbr"}, "channels 'gbr' is none of rgb, bgr"),
        ({"scale": 2}, "scale 2 is none of 1, 255"),
        ({"interpolation": "cubic"}, "interpolation 'cubic' is none of nearest, bilinear"),
        ({"resize": (4, 5, 6)}, "not a positive number of pixels"),
        ({"mean": (103.5,)}, "not on the 0..1 scale; divide it by 255: 0.4059, or give `scale=255`"),
        ({"mean": (300.0,), "scale": 255}, "not on the 0..255 scale"),
    ],
)
def test_settings_that_make_no_sense(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        Preprocess(**fields)


def test_only_fields_that_are_set_are_stored() -> None:
    assert Preprocess(resize=8).to_json() == '{"mean": null, "std": null, "resize": 8, "crop": null}'
    full = Preprocess(mean=(104.0,), letterbox=8, pad=0, channels="bgr", scale=255, interpolation="bicubic")
    assert Preprocess.from_json(full.to_json()) == full
    assert Preprocess.from_json(Preprocess(resize=(4, 6)).to_json()) == Preprocess(resize=(4, 6))
