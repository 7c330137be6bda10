"""Sources of rows: arrays in memory (or mapped from disk), and image files that are decoded when they are read.

A source names its rows, reads any of them as inputs of a model, and hashes the bytes that it would read.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from converter.data.finite import is_usable
from converter.data.inputs import InputSpec
from converter.data.preprocess import Preprocess
from converter.model_io.files import special_kind
from passes.errors import DataError, ShapeError

__all__ = ["ArraySource", "FolderSource", "Rows", "Source"]

Rows = NDArray[np.int64]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_CHUNK = 64  # rows that are examined together
_CROPPED = 128  # pixels; models with smaller inputs were trained on whole images


class Source(Protocol):
    """Rows of data for a model."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """One label for each row, or None."""

    @property
    def preprocess(self) -> Preprocess:
        """Preprocessing of images."""

    @property
    def images(self) -> bool:
        """Whether rows are images that go through preprocessing."""

    @property
    def channels(self) -> tuple[int, int] | None:
        """Channels of the images, and channels that the model takes. None if rows are not images."""

    def __len__(self) -> int: ...

    def take(self, rows: Rows) -> "Source":
        """A source with these rows only, in this order."""

    def read(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Rows start..stop as model inputs {name: [stop - start, ...]}."""

    def name(self, row: int) -> str:
        """Name of a row for messages: a file's path below the folder, or its number in the arrays as given."""

    def check(self) -> None:
        """Check the rows before they are used.

        Raises:
            DataError: A row cannot be used. The message names it.
        """

    def digest(self) -> str:
        """SHA-256 in hex of the rows' bytes and labels, in order."""


@dataclass(frozen=True)
class ArraySource:
    """Arrays {input name: [n, ...]}: inputs of the model, or uint8 images that are preprocessed batch by batch.

    Attributes:
        source: Name of the data in messages.
        arrays: Arrays by input name.
        names: Names of the arrays in messages, by input name.
        labels: One label for each row in use, or None.
        specs: Inputs of the model.
        preprocess: Preprocessing of uint8 images.
        rows: Indices of the rows in use. The arrays are not copied.
        origin: Number that each row of the arrays had when it was given. None if the rows have their own numbers.
    """

    source: str
    arrays: Mapping[str, NDArray[Any]]
    names: Mapping[str, str]
    labels: NDArray[np.int64] | None
    specs: tuple[InputSpec, ...]
    preprocess: Preprocess
    rows: Rows
    origin: Rows | None = None

    def __post_init__(self) -> None:
        for spec in self.specs:
            self._check_array(spec)

    @property
    def images(self) -> bool:
        return any(self._is_image(spec) for spec in self.specs)

    @property
    def channels(self) -> tuple[int, int] | None:
        for spec in self.specs:
            if self._is_image(spec):
                return self.arrays[spec.name].shape[3], self._channels(spec)
        return None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Rows) -> "ArraySource":
        return replace(self, rows=self.rows[rows], labels=None if self.labels is None else self.labels[rows])

    def compact(self) -> "ArraySource":
        """The same rows in arrays of their own. The other rows can then leave memory."""
        arrays = {name: array[self.rows] for name, array in self.arrays.items()}
        origin = self.rows if self.origin is None else self.origin[self.rows]
        return replace(self, arrays=arrays, rows=np.arange(len(self.rows)), origin=origin)

    def name(self, row: int) -> str:
        index = self.rows[row]
        return str(int(index if self.origin is None else self.origin[index]))

    def read(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        return {spec.name: self._prepared(self.arrays[spec.name][self.rows[start:stop]], spec) for spec in self.specs}

    def everything(self) -> dict[str, NDArray[Any]]:
        """All of the arrays as the inputs of one run."""
        return {spec.name: self._prepared(self.arrays[spec.name], spec) for spec in self.specs}

    def check(self) -> None:
        for name, array in self.arrays.items():
            if not np.issubdtype(array.dtype, np.inexact):
                continue
            for start in range(0, len(self.rows), _CHUNK):
                rows = self.rows[start : start + _CHUNK]
                usable = np.array([is_usable(values, alone=len(self.arrays) == 1) for values in array[rows]])
                if not usable.all():
                    row = rows[int(np.argmin(usable))]
                    raise DataError(
                        f"{self.source}: {self.names[name]}[{row}] holds NaN or Inf; remove or repair that sample"
                    )

    def digest(self) -> str:
        total = hashlib.sha256()
        for name, array in sorted(self.arrays.items()):
            total.update(f"{name} {array.dtype.str} {array.shape[1:]}".encode())
            for start in range(0, len(self.rows), _CHUNK):
                total.update(np.ascontiguousarray(array[self.rows[start : start + _CHUNK]]).tobytes())
        if self.labels is not None:
            total.update(self.labels.tobytes())
        return total.hexdigest()

    def _prepared(self, rows: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
        """Rows as the model takes them: images go through preprocessing."""
        if not self._is_image(spec):
            return rows
        return self.preprocess.tensor(self.preprocess.fit(rows, self._channels(spec)), spec)

    def _is_image(self, spec: InputSpec) -> bool:
        array = self.arrays[spec.name]
        if array.dtype != np.uint8 or array.ndim != 4 or len(spec.shape) != 4:
            return False
        if spec.dtype == np.uint8:  # what fits an input of [n, c, h, w] is in the model's own form
            return spec.channels_last or not spec.accepts(array.shape)
        return np.issubdtype(spec.dtype, np.floating)

    def _channels(self, spec: InputSpec) -> int:
        return spec.image[0] or self.arrays[spec.name].shape[3]

    def _check_array(self, spec: InputSpec) -> None:
        array, what = self.arrays[spec.name], f"{self.source}: {self.names[spec.name]}"
        if array.ndim and not len(self.rows):
            raise DataError(f"{what} holds no samples; give at least one")
        if self._is_image(spec):
            self._check_image(spec, what)
        elif array.ndim != len(spec.shape):
            raise DataError(
                f"{what} has rank {array.ndim}, the model's input {spec} takes rank {len(spec.shape)}"
                f"{_rank_hint(array, spec)}"
            )
        elif array.dtype != spec.dtype:
            image = " or as uint8 [n, h, w, c]" if len(spec.shape) == 4 else ""
            raise DataError(
                f"{what} is {array.dtype}, the model's input {spec} takes {spec.dtype}; save it as {spec.dtype}{image}"
            )
        elif not spec.accepts(array.shape):
            hint = _layout_hint(array, spec)
            raise ShapeError(f"{what} has shape {array.shape}, which does not fit the model's input {spec}{hint}")

    def _check_image(self, spec: InputSpec, what: str) -> None:
        count, height, width, have = self.arrays[spec.name].shape
        channels = self._channels(spec)
        if have != channels and (have not in (1, 3, 4) or channels not in (1, 3)):
            hint = "; x.transpose(0, 2, 3, 1) makes it [n, h, w, c]" if height in (1, 3) else ""
            raise DataError(
                f"{what} has shape {(count, height, width, have)}, {have} channels as [n, h, w, c], "
                f"the model's input {spec} takes {channels}{hint}"
            )
        if channels not in (1, 3, 4) and (self.preprocess.resize or self.preprocess.crop):
            raise DataError(f"{what} has {channels} channels; `resize=` and `crop=` need 1, 3 or 4")
        self.preprocess.check_channels(spec, channels)
        check_size(what, (width, height), self.preprocess, spec)


@dataclass(frozen=True)
class FolderSource:
    """Image files below a folder. They are opened one batch at a time, so memory does not grow with their number.

    Labels come from the folders directly below `root`. If all their names are integers, the name is the label.
    Otherwise, the label is the folder's index among the sorted names. There are no labels without such folders, or if
    images lie beside them.
    """

    root: Path
    files: tuple[Path, ...]
    labels: NDArray[np.int64] | None
    spec: InputSpec
    preprocess: Preprocess

    @classmethod
    def scan(cls, root: Path, spec: InputSpec, preprocess: Preprocess) -> "FolderSource":
        """All images below `root` in sorted order. Hidden files and folders are skipped."""
        files = tuple(_image_files(root))
        if not files:
            raise DataError(f"{root}: no images ({', '.join(IMAGE_SUFFIXES)}) in this folder or below it")
        if len(spec.shape) != 4 or (spec.image[0] or 3) not in (1, 3, 4) or spec.dtype in (np.int8, np.bool_):
            raise DataError(f"{root}: images do not fit the model's input {spec}; give an .npz of arrays instead")
        preprocess.check_channels(spec, spec.image[0] or 3)
        return cls(root, files, _folder_labels(root, files), spec, preprocess)

    @property
    def images(self) -> bool:
        return True

    @property
    def channels(self) -> tuple[int, int] | None:
        """The images count as grey if the first ones all are. A few grey ones among coloured ones do not matter."""
        grey = all(_is_grey(file) for file in self.files[:_CHUNK])
        return 1 if grey else 3, self.spec.image[0] or 3

    def __len__(self) -> int:
        return len(self.files)

    def take(self, rows: Rows) -> "FolderSource":
        files = tuple(self.files[row] for row in rows)
        return replace(self, files=files, labels=None if self.labels is None else self.labels[rows])

    def name(self, row: int) -> str:
        return self.files[row].relative_to(self.root).as_posix()

    def read(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        pixels = np.stack([self._pixels(file) for file in self.files[start:stop]])  # [n, h, w, c]
        return {self.spec.name: self.preprocess.tensor(pixels, self.spec)}

    def check(self) -> None:
        expected: tuple[int, int] | None = None
        for file in self.files:
            try:
                with Image.open(file) as image:
                    size = image.size
            except Exception as error:  # Pillow raises errors of many types for a damaged file
                raise _unreadable(file, error) from error
            fitted = check_size(str(file), size, self.preprocess, self.spec)
            expected = expected or fitted
            if fitted != expected:
                raise DataError(
                    f"{file}: image is {fitted[0]}x{fitted[1]}, {self.files[0]} is {expected[0]}x{expected[1]}; "
                    f"use {_together(fitted, expected)} to bring all to one size"
                )

    def digest(self) -> str:
        total = hashlib.sha256()
        for file in self.files:
            content = file.read_bytes()
            total.update(f"{len(content)} ".encode())
            total.update(content)
        if self.labels is not None:
            total.update(self.labels.tobytes())
        return total.hexdigest()

    def _pixels(self, file: Path) -> NDArray[np.uint8]:
        try:
            with Image.open(file) as image:
                return self.preprocess.pixels(image, self.spec.image[0] or 3)
        except Exception as error:  # Pillow raises errors of many types for a damaged file
            raise _unreadable(file, error) from error


def check_size(what: str, size: tuple[int, int], preprocess: Preprocess, spec: InputSpec) -> tuple[int, int]:
    """Check the size of an image after preprocessing.

    Args:
        what: Name of the image.
        size: Its (width, height).
        preprocess: The preprocessing.
        spec: Input of the model.

    Returns:
        (width, height) after preprocessing.

    Raises:
        DataError: The crop is larger than the image.
        ShapeError: The model takes another size.
    """
    try:
        width, height = preprocess.output_size(*size)
    except DataError as error:
        raise DataError(f"{what}: {error}") from error
    _, want_height, want_width = spec.image
    if (want_width or width, want_height or height) == (width, height):
        return width, height
    expected = f"{want_width or '?'}x{want_height or '?'}"
    shown = f"{size[0]}x{size[1]}"
    if (width, height) != size:
        shown += f", {width}x{height} after `resize=`/`crop=`"
    if want_width == want_height and want_width is not None:
        hint = f"use {_fitting(size, want_width)}"
        if size[0] != size[1] and (width, height) == size:
            hint += f", or `letterbox={want_width}` for a detector"
    else:
        hint = f"bring the images to {expected} first"
    raise ShapeError(f"{what}: image is {shown}; the model takes {expected}; {hint}")


def _fitting(size: tuple[int, int], side: int) -> str:
    """Options that make images square: large images are cropped as for ImageNet, small ones keep their edges."""
    larger = round(side * 256 / 224) if side >= _CROPPED and min(size) > side else side
    return f"`resize={larger}`" + ("" if size[0] == size[1] and larger == side else f" `crop={side}`")


def _together(*sizes: tuple[int, int]) -> str:
    """Options that bring images of these sizes to one square size."""
    least = min(min(size) for size in sizes)
    return _fitting((least, least + 1), min(224, least))


def _rank_hint(array: NDArray[Any], spec: InputSpec) -> str:
    if array.dtype == np.uint8:
        return "; uint8 images are [n, h, w, c], grey ones x[..., None]"
    return "; x[:, None] adds the channels" if array.ndim == 3 and spec.accepts(array[:, None].shape) else ""


def _layout_hint(array: NDArray[Any], spec: InputSpec) -> str:
    """Advice for floats in another layout. Only uint8 images are resized and converted."""
    if array.ndim != 4:
        return ""
    for order, layout in (((0, 3, 1, 2), "[n, c, h, w]"), ((0, 2, 3, 1), "[n, h, w, c]")):
        if spec.accepts(array.transpose(order).shape):
            return f"; x.transpose{order} makes it {layout}"
    return "; floats are taken as they are, and uint8 images [n, h, w, c] are resized"


def _is_grey(file: Path) -> bool:
    with Image.open(file) as image:
        return image.mode in {"1", "L", "LA", "La", "F"} or image.mode.startswith("I")


def _unreadable(file: Path, error: Exception) -> DataError:
    return DataError(f"{file}: cannot be read as an image ({type(error).__name__}: {error}); repair or remove it")


def _image_files(root: Path) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        raise DataError(f"{error.filename}: the folder cannot be read ({error.strerror}); allow it or remove it")

    images: list[Path] = []
    seen: set[str] = set()  # a link may lead back to a folder above
    for folder, below, names in os.walk(root, onerror=unreadable, followlinks=True):
        seen.add(os.path.realpath(folder))
        below[:] = [
            name for name in below if not name.startswith(".") and os.path.realpath(Path(folder, name)) not in seen
        ]
        images += [
            Path(folder, name) for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
        ]
    for image in sorted(images):
        if kind := special_kind(image):
            raise DataError(f"{image} is {kind}, not an image; remove it")
        yield image


def _folder_labels(root: Path, files: Sequence[Path]) -> NDArray[np.int64] | None:
    parts = [file.relative_to(root).parts for file in files]
    if any(len(part) == 1 for part in parts):
        return None
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if all(name.isascii() and name.isdecimal() for name in classes):
        return np.array([int(part[0]) for part in parts], dtype=np.int64)
    label_of = {name: index for index, name in enumerate(classes)}
    return np.array([label_of[part[0]] for part in parts], dtype=np.int64)
