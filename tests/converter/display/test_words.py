"""Data with preprocessing are images, and all other data are samples."""

import numpy as np

import converter
from converter.data.dataset import load_data
from converter.data.inputs import input_specs
from converter.display import words
from tests.support.graphs import array, build, node


def test_what_data_consist_of() -> None:
    assert words.samples(1024, None) == "1,024 samples"
    assert words.samples(12, converter.Preprocess()) == "12 images"
    assert words.samples(12, {"resize": 256}) == "12 images"


def test_arrays_for_the_model_are_samples_and_pixels_are_images() -> None:
    model = build([node("Conv", ["x", "w"], ["y"])], {"w": array(4, 3, 3, 3)}, ["n", 3, 8, 8])
    inputs = load_data(array(5, 3, 8, 8), input_specs(model))
    assert repr(inputs).startswith("<Dataset of 5 samples")
    pixels = np.zeros((5, 8, 8, 3), np.uint8)
    assert repr(load_data(pixels, input_specs(model))).startswith("<Dataset of 5 images")
