"""Preprocessing of 8-bit pixels to a model's input: size, colours, scale, mean, std, layout.

    value = (pixel * scale / 255 - mean) / std                       mean and std on the scale 0..scale

``resize`` sets the length of the shorter side and keeps the aspect ratio, or sets height and width. ``crop`` then cuts
out the square centre. Both round as torchvision's Resize and CenterCrop do. ``letterbox`` fits the longer side and pads
the rest, as detectors want it. Pillow resizes, with antialiasing. Colours follow Pillow's `convert`: transparency is
dropped, grey is repeated, RGB becomes grey by ITU-R 601 luma. EXIF rotation is not applied. torchvision does not apply
it either.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from converter.data.inputs import InputSpec
from passes.errors import DataError, UsageError

__all__ = ["METADATA_KEY", "Preprocess", "store_preprocess", "stored_preprocess"]

METADATA_KEY = "convert_onnx.preprocess"
_FIRST = ("mean", "std", "resize", "crop")  # always stored; the others only if they are set
_FILTERS = MappingProxyType(
    {
        "nearest": Image.Resampling.NEAREST,
        "bilinear": Image.Resampling.BILINEAR,
        "bicubic": Image.Resampling.BICUBIC,
        "lanczos": Image.Resampling.LANCZOS,
        "box": Image.Resampling.BOX,
    }
)
_PAD = 114  # grey, as YOLO pads
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Preprocess:
    """How uint8 images become a model's input. A field that is None does nothing.

    Attributes:
        mean: Numbers to subtract, 1 or 3, on the 0..1 scale, or on that of ``scale``.
        std: Numbers to divide by, 1 or 3, on the same scale.
        resize: Length of the shorter side in pixels, or (height, width).
        crop: Side of the centre crop, in pixels.
        letterbox: Side of a square in pixels. The longer side of an image fits it. The rest is padded on both sides.
        pad: Value of padded pixels, 0 to 255. 114 if it is not given.
        channels: "rgb" or "bgr", the order in which the model takes colours. RGB if it is not given.
        scale: 1 or 255, the largest value of a pixel before mean and std. With 255, pixels are not divided. 1 if it is
            not given.
        interpolation: "bilinear", "nearest", "bicubic", "lanczos" or "box". Bilinear if it is not given.

    Raises:
        DataError: A value makes no sense.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | tuple[int, int] | None = None
    crop: int | None = None
    letterbox: int | None = None
    pad: int | None = None
    channels: str | None = None
    scale: int | None = None
    interpolation: str | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            numbers = getattr(self, name)
            if numbers is not None:
                object.__setattr__(self, name, _checked_numbers(name, numbers, self.scale or 1))
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise DataError(
                f"mean {_listed(self.mean)} and std {_listed(self.std)} are {len(self.mean)} and {len(self.std)} "
                "numbers; give both 1 or both 3"
            )
        sides: Any = self.resize
        if isinstance(sides, list | tuple):  # JSON and TOML have lists
            object.__setattr__(self, "resize", tuple(sides) if len(sides) > 1 else sides[0])
        for name in ("resize", "crop", "letterbox"):
            _check_size(name, getattr(self, name), sides=2 if name == "resize" else 1)
        self._check_choices()
        if self.crop is not None and isinstance(self.resize, int) and self.crop > self.resize:
            raise DataError(
                f"crop {self.crop} is larger than resize {self.resize}; use a crop of at most {self.resize}"
            )

    def _check_choices(self) -> None:
        if self.letterbox is not None and (self.resize is not None or self.crop is not None):
            other = "resize" if self.resize is not None else "crop"
            raise DataError(f"letterbox {self.letterbox} sets the size, and so does {other}; give one")
        if self.pad is not None and (self.letterbox is None or not 0 <= self.pad <= 255):
            why = "is not 0 to 255" if self.letterbox is not None else "is for letterbox, which is not given"
            raise DataError(f"pad {self.pad} {why}; leave it out, or give letterbox and a pixel value")
        for name, choices in (("channels", ("rgb", "bgr")), ("scale", (1, 255)), ("interpolation", tuple(_FILTERS))):
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise DataError(f"{name} {value!r} is none of {', '.join(map(str, choices))}")

    def values(self) -> dict[str, Any]:
        """Return the fields for JSON: mean, std, resize and crop, and the others that are set."""
        return {name: value for name, value in asdict(self).items() if name in _FIRST or value is not None}

    def __str__(self) -> str:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        shown = {name: _listed(value) if isinstance(value, tuple) else value for name, value in given.items()}
        return ", ".join(f"{name} {value}" for name, value in shown.items()) or "pixels / 255"

    def to_json(self) -> str:
        """One line of JSON. Models store it under METADATA_KEY in their metadata_props."""
        return json.dumps(self.values())

    @classmethod
    def from_json(cls, text: str) -> "Preprocess":
        """Read the text of `to_json`.

        Raises:
            DataError: The text is something else.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(
                f"stored preprocessing {text[:80]!r} is not JSON ({error}); give `mean=` and `std=`"
            ) from error
        known = [field.name for field in fields(cls)]
        if not isinstance(values, dict) or not set(values) <= set(known):
            raise DataError(f"stored preprocessing {text[:80]!r} is not an object of {', '.join(known)}")
        return cls(**values)

    def merge(self, override: "Preprocess") -> "Preprocess":
        """Replace every field that `override` sets.

        Raises:
            UsageError: A field that is set does not fit one that is not. The message names the latter.
        """
        given = {name: value for name, value in asdict(override).items() if value is not None}
        try:
            return Preprocess(**{**asdict(self), **given})
        except DataError as error:
            others = [name for name, value in asdict(self).items() if value is not None and name not in given]
            hints = ", ".join(f"{name} is stored and `{name}=` replaces it" for name in others if name in str(error))
            raise UsageError(f"{error} ({hints})") from error

    def check_channels(self, spec: InputSpec, channels: int) -> None:
        """Require that mean and std fit the input's channels.

        Raises:
            UsageError: One of them has 3 values and the input another number of channels, or the input takes integers.
        """
        for name in ("mean", "std"):
            numbers = getattr(self, name)
            if numbers is not None and len(numbers) not in (1, channels):
                raise UsageError(
                    f"{name} has {len(numbers)} values, input {spec} takes {channels} channels; give 1 value"
                )
            if numbers is not None and spec.dtype.kind in "iu":
                raise UsageError(f"input {spec} takes {spec.dtype} pixels as they are; leave out `{name}=`")

    def output_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of an image after resize and crop.

        Raises:
            DataError: The crop is larger than the image.
        """
        if self.letterbox is not None:
            return self.letterbox, self.letterbox
        if isinstance(self.resize, tuple):
            height, width = self.resize
        elif self.resize is not None:
            short, long = sorted((width, height))
            longer = max(1, int(self.resize * long / short))
            width, height = (self.resize, longer) if width <= height else (longer, self.resize)
        if self.crop is not None:
            if min(width, height) < self.crop:
                raise DataError(
                    f"image of {width}x{height} is smaller than `crop={self.crop}`; use `resize={self.crop}` as well"
                )
            return self.crop, self.crop
        return width, height

    def pixels(self, image: Image.Image, channels: int) -> NDArray[np.uint8]:
        """An image as uint8 pixels [h, w, channels] (1, 3 or 4 channels), resized and cropped.

        Raises:
            DataError: The crop is larger than the image.
        """
        wanted = self.output_size(*image.size)
        image = _with_channels(image, channels)
        if self.channels == "bgr" and channels >= 3:
            image = Image.merge(image.mode, (*image.split()[2::-1], *image.split()[3:]))
        if self.letterbox is not None:
            return self._letterboxed(image, self.letterbox, channels)
        if self.resize is not None:
            size = Preprocess(resize=self.resize).output_size(*image.size)
            if size != image.size:
                image = image.resize(size, _FILTERS[self.interpolation or "bilinear"])
        if image.size != wanted:
            left = round((image.width - wanted[0]) / 2)
            top = round((image.height - wanted[1]) / 2)
            image = image.crop((left, top, left + wanted[0], top + wanted[1]))
        pixels = np.asarray(image, dtype=np.uint8)
        return pixels[..., None] if channels == 1 else pixels  # [h, w, channels]

    def _letterboxed(self, image: Image.Image, side: int, channels: int) -> NDArray[np.uint8]:
        """Fit the longer side of an image into a square, and pad on both sides."""
        ratio = side / max(image.size)
        size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
        if size != image.size:
            image = image.resize(size, _FILTERS[self.interpolation or "bilinear"])
        pixels = np.asarray(image, dtype=np.uint8).reshape(size[1], size[0], channels)
        square = np.full((side, side, channels), _PAD if self.pad is None else self.pad, np.uint8)
        top, left = (side - size[1]) // 2, (side - size[0]) // 2
        square[top : top + size[1], left : left + size[0]] = pixels
        return square  # [side, side, channels]

    def fit(self, images: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
        """Resize and crop images [n, h, w, c], and convert them to `channels`: [n, h', w', channels]."""
        have = images.shape[3]
        if self.resize is None and self.crop is None and self.letterbox is None and have == channels:
            return images[..., [2, 1, 0, *range(3, have)]] if self.channels == "bgr" and have >= 3 else images
        return np.stack(
            [self.pixels(Image.fromarray(image[..., 0] if have == 1 else image), channels) for image in images]
        )

    def tensor(self, pixels: NDArray[np.uint8], spec: InputSpec) -> NDArray[Any]:
        """Convert pixels [n, h, w, c] of the right size for an input: scaled, as [n, c, h, w] or channels-last.

        Inputs of integers get the pixels as they are.
        """
        values: NDArray[Any] = pixels
        if spec.dtype.kind not in "iu":
            values = pixels.astype(np.float32)
            if self.scale != 255:
                values /= np.float32(255)
            if self.mean is not None:
                values -= np.asarray(self.mean, dtype=np.float32)
            if self.std is not None:
                values /= np.asarray(self.std, dtype=np.float32)
        if not spec.channels_last:
            values = values.transpose(0, 3, 1, 2)  # [n, c, h, w]
        return np.ascontiguousarray(values, dtype=spec.dtype)


def store_preprocess(model: onnx.ModelProto, preprocess: Preprocess) -> None:
    """Store the preprocessing in the model's metadata. `stored_preprocess` reads it."""
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, preprocess.to_json()


def stored_preprocess(model: onnx.ModelProto | ort.InferenceSession) -> Preprocess:
    """The preprocessing that `convert` or `export` stored in the model's metadata, or an empty Preprocess."""
    if isinstance(model, onnx.ModelProto):
        metadata = {entry.key: entry.value for entry in model.metadata_props}
    else:
        metadata = dict(model.get_modelmeta().custom_metadata_map)
    return Preprocess.from_json(metadata[METADATA_KEY]) if METADATA_KEY in metadata else Preprocess()


def _check_size(name: str, size: Any, *, sides: int) -> None:
    """Require a positive number of pixels, or as many of them as there are sides."""
    if size is None:
        return
    numbers = size if isinstance(size, tuple) else (size,)
    positive = all(isinstance(each, int) and not isinstance(each, bool) and each > 0 for each in numbers)
    if not positive or len(numbers) > sides:
        raise DataError(f"{name} {size!r} is not a positive number of pixels, such as 224")


def _listed(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


def _with_channels(image: Image.Image, channels: int) -> Image.Image:
    """Convert to Pillow's mode for 1, 3 or 4 channels. 16-bit greys keep their upper 8 bits."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode == "P":
        image = image.convert("RGBA")  # convert("RGB") warns about some forms of transparency in a palette
    return image.convert(_MODES[channels])


def _checked_numbers(name: str, numbers: Any, scale: int) -> tuple[float, ...]:
    if isinstance(numbers, str) or not isinstance(numbers, Iterable):
        raise DataError(f"{name} {numbers!r} is not a list of numbers; give 1 or 3, such as (0.5,)")
    numbers = tuple(numbers)
    listed = ",".join(str(number) for number in numbers)
    if len(numbers) not in (1, 3):
        raise DataError(f"{name} {listed} has {len(numbers)} values; give 1 or 3")
    try:
        values = tuple(float(number) for number in numbers)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} {listed} is not a list of numbers") from error
    for value in values:
        if not math.isfinite(value):
            raise DataError(f"{name} {listed} is not finite")
        if abs(value) > scale:
            hint = f"divide it by 255: {value / 255:.4g}, or give `scale=255`" if scale == 1 else "pixels end at 255"
            raise DataError(f"{name} {listed} is not on the 0..{scale} scale; {hint}")
        if name == "std" and value <= 0:
            raise DataError(f"std {listed} is not above 0; use 1 to leave the values as they are")
    return values
