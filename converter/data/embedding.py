"""Preprocessing inside of a model: its input is the uint8 image, and its graph scales the pixels.

What cannot be in the graph stays outside, and the file stores it as its preprocessing: resizing, cropping, and the
order of the colours that its input has. So data of images need nothing else to know of such a file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from converter.data.inputs import InputSpec, input_specs
from converter.data.preprocess import METADATA_KEY, Preprocess
from converter.model_io.pixel_input import PixelInput, folded, with_pixels
from passes.errors import DataError, UsageError

__all__ = [
    "EMBEDDED_KEY",
    "Embed",
    "Embedded",
    "embed",
    "embedded_preprocess",
    "exact_front",
    "floats_of",
    "store_embedded",
]

EMBEDDED_KEY = "convert_onnx.embedded"
_COLOURS = 3
_LAYOUTS, _ORDERS = ("nhwc", "nchw"), ("rgb", "bgr")


@dataclass(frozen=True)
class Embed:
    """The image that a file with its preprocessing inside takes.

    Attributes:
        layout: "nhwc" or "nchw". Decoders and cameras give [n, h, w, c].
        channels: "rgb" or "bgr", the order of the colours in the image. Pillow gives RGB, OpenCV gives BGR.

    Raises:
        UsageError: A value is none of these.
    """

    layout: str = "nhwc"
    channels: str = "rgb"

    def __post_init__(self) -> None:
        for name, choices in (("layout", _LAYOUTS), ("channels", _ORDERS)):
            value = getattr(self, name)
            if value not in choices:
                raise UsageError(f"embedded {name} {value!r} is none of {', '.join(choices)}")

    @classmethod
    def of(cls, words: str) -> "Embed":
        """Return the image of its name: nhwc, nchw, nhwc-bgr or nchw-bgr.

        Raises:
            UsageError: It is another name.
        """
        layout, _, channels = words.partition("-")
        if layout not in _LAYOUTS or channels not in ("", *_ORDERS) or words.endswith("-"):
            raise UsageError(
                f"`embed_preprocess={words!r}` is none of nhwc, nchw, nhwc-bgr, nchw-bgr; nhwc is an RGB image "
                "of uint8 [n, h, w, 3]"
            )
        return cls(layout, channels or "rgb")


@dataclass(frozen=True)
class Embedded:
    """What a file says of the preprocessing inside of it.

    Attributes:
        input: Name of the input that takes images.
        image: The image.
        preprocess: The whole preprocessing, inside and outside.
    """

    input: str
    image: Embed
    preprocess: Preprocess

    @property
    def outside(self) -> Preprocess:
        """What is left to do outside: resizing and cropping, and the order of colours if the input takes BGR."""
        order = "bgr" if self.image.channels == "bgr" else None
        return replace(self.preprocess, mean=None, std=None, scale=None, channels=order)

    def to_json(self) -> dict[str, Any]:
        """Return the values for JSON."""
        image = {"layout": self.image.layout, "channels": self.image.channels}
        return {"input": self.input, **image, "preprocess": self.preprocess.values()}

    @classmethod
    def from_json(cls, text: str) -> "Embedded":
        """Read the text that `store_embedded` wrote.

        Raises:
            DataError: The text is something else.
        """
        try:
            values = json.loads(text)
            image = Embed(values["layout"], values["channels"])
            return cls(str(values["input"]), image, Preprocess(**values["preprocess"]))
        except (ValueError, TypeError, KeyError, UsageError) as error:
            raise DataError(
                f"stored metadata {text[:80]!r} do not describe preprocessing ({error}); convert the model again"
            ) from error


def embed(model: onnx.ModelProto, preprocess: Preprocess, image: Embed) -> tuple[onnx.ModelProto, Embedded]:
    """Return the model with its preprocessing inside, in the form in which integers need the least work.

    Args:
        model: The float model, at opset 21 or newer. It does not change.
        preprocess: How uint8 images become its input.
        image: The image that the result takes.

    Returns:
        The model, and what its file will say.

    Raises:
        UsageError: The model has no image input of floats, or several, or the preprocessing does not fit it.
        ModelError: The input is read in a way that no node can come before.
    """
    embedded = Embedded(_image_input(model).name, image, preprocess)
    return folded(model, _pixels(model, embedded)), embedded


def exact_front(model: onnx.ModelProto, embedded: Embedded) -> onnx.ModelProto:
    """Return a float model that takes the same images as a file with its preprocessing inside, with floats in between.

    Args:
        model: The float model. It does not change.
        embedded: What the file says of itself.

    Raises:
        UsageError: The model has no such image input.
        ModelError: The input is read in a way that no node can come before.
    """
    return with_pixels(model, _pixels(model, replace(embedded, input=_image_input(model).name)))


def floats_of(
    feeds: Mapping[str, NDArray[Any]], embedded: Embedded, inputs: Sequence[InputSpec]
) -> dict[str, NDArray[Any]]:
    """Return the inputs of a model without preprocessing inside for the same image, as `Preprocess` makes them.

    Args:
        feeds: Inputs of the model with it, by name: uint8 pixels and the others.
        embedded: The preprocessing.
        inputs: Inputs of the model without it.
    """
    spec, used, image = (
        next(each for each in inputs if each.name == embedded.input),
        embedded.preprocess,
        embedded.image,
    )
    pixels = feeds[embedded.input]
    if image.layout == "nchw":
        pixels = pixels.transpose(0, 2, 3, 1)
    if pixels.shape[3] == _COLOURS and (used.channels or "rgb") != image.channels:
        pixels = pixels[..., ::-1]
    return {**feeds, spec.name: used.tensor(pixels, spec)}


def store_embedded(model: onnx.ModelProto, embedded: Embedded) -> None:
    """Store the description in the model's metadata, and what is left outside as its preprocessing."""
    for key, value in (
        (EMBEDDED_KEY, json.dumps(embedded.to_json())),
        (METADATA_KEY, embedded.outside.to_json()),
    ):
        entry = next((each for each in model.metadata_props if each.key == key), None) or model.metadata_props.add()
        entry.key, entry.value = key, value


def embedded_preprocess(model: onnx.ModelProto | ort.InferenceSession) -> Embedded | None:
    """Return what a file says of the preprocessing inside of it. None: there is none.

    Raises:
        DataError: The metadata are damaged.
    """
    if isinstance(model, onnx.ModelProto):
        metadata = {entry.key: entry.value for entry in model.metadata_props}
    else:
        metadata = dict(model.get_modelmeta().custom_metadata_map)
    return Embedded.from_json(metadata[EMBEDDED_KEY]) if EMBEDDED_KEY in metadata else None


def _image_input(model: onnx.ModelProto) -> InputSpec:
    """The only input of floats that an image fits.

    Raises:
        UsageError: There is none, or there are several.
    """
    inputs = input_specs(model)
    images = [spec for spec in inputs if len(spec.shape) == 4 and spec.dtype.kind == "f" and spec.image[0] in (1, 3)]
    if len(images) == 1:
        return images[0]
    taken = ", ".join(map(str, inputs)) if not images else ", ".join(map(str, images))
    which = "no input of floats with 1 or 3 channels" if not images else f"{len(images)} inputs of images"
    raise UsageError(f"`embed_preprocess=` needs one input of images, and the model has {which}: {taken}; leave it out")


def _pixels(model: onnx.ModelProto, embedded: Embedded) -> PixelInput:
    """What the pixels of the image mean to the model: value = (pixel * scale / 255 - mean) / std."""
    spec, used, image = _image_input(model), embedded.preprocess, embedded.image
    channels = spec.image[0] or 0
    used.check_channels(spec, channels)
    if channels == 1 and image.channels == "bgr":
        raise UsageError(f"input {spec} takes grey images, which have no order of colours; leave out bgr")
    factor = 1.0 if used.scale == 255 else 255.0
    mean, std = (np.broadcast_to(_array(each, empty), channels) for each, empty in ((used.mean, 0), (used.std, 1)))
    return PixelInput(
        spec.name,
        zero=mean * factor,
        step=1 / (std * factor),
        channels_last=spec.channels_last,
        pixels_last=image.layout == "nhwc",
        reverse=channels == _COLOURS and (used.channels or "rgb") != image.channels,
    )


def _array(numbers: Sequence[float] | None, empty: float) -> Any:
    return np.asarray([empty] if numbers is None else numbers, np.float64)
