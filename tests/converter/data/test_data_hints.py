"""Hints in the errors about images that do not fit the model. Following a hint solves the problem."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from converter.data.dataset import load_data
from converter.data.inputs import InputSpec
from converter.data.preprocess import Preprocess
from passes.errors import DataError, ShapeError

FLOAT = np.dtype(np.float32)
NONE = Preprocess()


def takes(channels: int, side: int) -> tuple[InputSpec]:
    return (InputSpec("image", (None, channels, side, side), FLOAT),)


def asked_for(hint: str) -> dict[str, Any]:
    """The parameters that an error names, with their values."""
    return {name: int(size) for name, size in re.findall(r"`(\w+)=(\d+)`", hint)}


@pytest.mark.parametrize(
    ("image", "side", "hint"),
    [
        ((28, 28), 32, "`resize=32`"),
        ((64, 64), 32, "`resize=32`"),
        ((60, 40), 32, "`resize=32` `crop=32`"),
        ((200, 200), 224, "`resize=224`"),
        ((200, 150), 224, "`resize=224` `crop=224`"),
        ((256, 256), 224, "`resize=256` `crop=224`"),
        ((600, 400), 299, "`resize=342` `crop=299`"),
    ],
)
def test_the_hint_at_another_size_works(image: tuple[int, int], side: int, hint: str) -> None:
    pixels = np.zeros((2, image[1], image[0], 3), np.uint8)
    other = "" if image[0] == image[1] else f", or `letterbox={side}` for a detector"
    with pytest.raises(ShapeError, match=f"use {hint}{other}$"):
        load_data(pixels, takes(3, side), preprocess=NONE)
    assert len(load_data(pixels, takes(3, side), preprocess=Preprocess(letterbox=side))) == 2
    assert len(load_data(pixels, takes(3, side), preprocess=Preprocess(**asked_for(hint)))) == 2


@pytest.mark.parametrize(
    ("shape", "channels", "message"),
    [
        ((4, 8, 8, 3), 3, r"\[\?, 3, 8, 8\]; x\.transpose\(0, 3, 1, 2\) makes it \[n, c, h, w\]"),
        ((4, 28, 28, 1), 3, r"floats are taken as they are, and uint8 images \[n, h, w, c\] are resized"),
        ((4, 8, 8), 1, r"x\[:, None\] adds the channels"),
    ],
    ids=["other_layout", "other_size", "no_channels"],
)
def test_floats_of_another_form(shape: tuple[int, ...], channels: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(np.zeros(shape, np.float32), takes(channels, 8))


@pytest.mark.parametrize(
    ("sizes", "hint"),
    [
        (((500, 375), (640, 480)), "`resize=256` `crop=224`"),
        (((224, 224), (300, 300)), "`resize=224` `crop=224`"),
        (((32, 40), (40, 32)), "`resize=32` `crop=32`"),
    ],
)
def test_images_of_several_sizes_are_brought_to_one(tmp_path: Path, sizes: list[tuple[int, int]], hint: str) -> None:
    for index, size in enumerate(sizes):
        Image.new("RGB", size).save(tmp_path / f"{index}.png")
    any_size = (InputSpec("image", (None, 3, None, None), FLOAT),)
    with pytest.raises(DataError, match=f"use {hint} to bring all to one size"):
        load_data(tmp_path, any_size, preprocess=NONE)
    assert len(load_data(tmp_path, any_size, preprocess=Preprocess(**asked_for(hint)))) == 2
