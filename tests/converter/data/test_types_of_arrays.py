"""Arrays in numpy's default types, for inputs of other widths."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.data.dataset import Dataset, load_data
from converter.data.inputs import InputSpec
from passes.errors import DataError, ShapeError

DRAW = np.random.default_rng(0)
WIDE = DRAW.normal(size=(4, 3, 8, 8))
FLOAT = (InputSpec("image", (None, 3, 8, 8), np.dtype(np.float32)),)
PAIR = (InputSpec("x", (None, 2), np.dtype(np.float32)), InputSpec("mask", (None, 2), np.dtype(np.float32)))


def npz(path: Path, array: Any) -> Any:
    np.savez(path / "data.npz", x=array)
    return path / "data.npz"


def npy(path: Path, array: Any) -> Any:
    np.save(path / "data.npy", array)
    return path / "data.npy"


def generator(_: Path, array: Any) -> Any:
    return lambda: iter([array[:2], array[2:]])


def memory(_: Path, array: Any) -> Any:
    return array


FORMS = pytest.mark.parametrize("form", [npz, npy, generator, memory])


def values(data: Dataset, name: str = "image") -> Any:
    return np.concatenate([batch.feeds[name] for batch in data.batches(3)])


@FORMS
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_floats_are_rounded_to_the_inputs_type(
    form: Callable[[Path, Any], Any], dtype: type[np.floating[Any]], tmp_path: Path
) -> None:
    specs = (InputSpec("image", (None, 3, 8, 8), np.dtype(dtype)),)
    taken = values(load_data(form(tmp_path, WIDE), specs))
    assert taken.dtype == dtype
    assert np.array_equal(taken, WIDE.astype(dtype))


@FORMS
def test_a_float_beyond_the_inputs_range_is_refused(form: Callable[[Path, Any], Any], tmp_path: Path) -> None:
    large = WIDE.copy()
    large[2, 0, 0, 0] = 1e300
    with pytest.raises(DataError, match=r"x\[2\] holds NaN or Inf"):
        load_data(form(tmp_path, large), FLOAT)


def test_a_mask_of_the_least_float64_is_one_of_minus_infinity() -> None:
    """Beside another input, as -Inf may be: an attention adds it."""
    mask = np.where(np.arange(8).reshape(4, 2) % 2, np.finfo(np.float64).min, 0.0)
    taken = values(load_data({"x": np.ones((4, 2)), "mask": mask}, PAIR), "mask")
    assert np.array_equal(taken[:, 0], np.zeros(4))
    assert np.isneginf(taken[:, 1]).all()


@FORMS
@pytest.mark.parametrize(
    ("given", "dtype", "low", "high", "wrong"),
    [
        (np.int64, np.int32, -(2**31), 2**31 - 1, 2**31),
        (np.int64, np.int32, -(2**31), 2**31 - 1, -(2**31) - 1),
        (np.int64, np.uint8, 0, 255, -1),
        (np.int16, np.uint8, 0, 255, 256),
        (np.uint64, np.int64, 0, 2**63 - 1, 2**63),
    ],
)
def test_integers_are_cast_up_to_the_last_that_fits(
    form: Callable[[Path, Any], Any], given: Any, dtype: Any, low: int, high: int, wrong: int, tmp_path: Path
) -> None:
    specs = (InputSpec("ids", (None, 2), np.dtype(dtype)),)
    array = np.array([[low, 0], [1, 2], [3, high]], given)
    taken = values(load_data(form(tmp_path, array), specs), "ids")
    assert taken.dtype == dtype
    assert taken.tolist() == array.tolist()
    array[1, 0] = wrong
    with pytest.raises(
        DataError, match=rf"x\[1\] holds {wrong}, and the model's input 'ids' .* takes .*{high}; correct"
    ):
        load_data(form(tmp_path, array), specs)


def test_pixels_in_int64_are_images_of_a_model_that_takes_bytes() -> None:
    specs = (InputSpec("image", (None, 8, 8, 3), np.dtype(np.uint8)),)
    pixels = DRAW.integers(0, 256, (4, 8, 8, 3))
    assert np.array_equal(values(load_data(pixels, specs)), pixels)


def test_one_array_in_a_file_feeds_one_input(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is one array, and the model has 2"):
        load_data(npy(tmp_path, np.ones((4, 2))), PAIR)
    with pytest.raises(ShapeError, match="does not fit"):
        load_data(npy(tmp_path, WIDE[..., :7]), FLOAT)
    pixels = DRAW.integers(0, 256, (40, 8, 8, 3), np.uint8)
    data = load_data(npy(tmp_path, pixels), FLOAT, limit=5)
    assert len(data) == 5
    assert data.preprocess is not None
