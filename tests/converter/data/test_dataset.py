"""Data: every form that load_data accepts, the methods of a Dataset, and every refusal."""

import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from converter.data.dataset import Dataset, load_data
from converter.data.inputs import InputSpec
from converter.data.preprocess import Preprocess
from passes.errors import DataError, UsageError

FLOAT = np.dtype(np.float32)
RGB8 = (InputSpec("image", (None, 3, 8, 8), FLOAT),)
GREY8 = (InputSpec("image", (None, 1, 8, 8), FLOAT),)
ANY_SIZE = (InputSpec("image", (None, 3, None, None), FLOAT),)
TWO = (InputSpec("left", (None, 2), FLOAT), InputSpec("right", (None, 3), np.dtype(np.int64)))
NONE = Preprocess()


def pixels(count: int, side: int = 8, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def save_npz(path: Path, **arrays: Any) -> Path:
    np.savez(path / "data.npz", **arrays)
    return path / "data.npz"


def save_image(path: Path, image: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def everything(data: Dataset, size: int = 3) -> NDArray[Any]:
    return np.concatenate([next(iter(batch.feeds.values()))[: batch.count] for batch in data.batches(size)])


# --- .npz and arrays -------------------------------------------------------------------------------------------------


def test_npz_of_uint8_images_and_labels(tmp_path: Path) -> None:
    images, labels = pixels(7), np.arange(7, dtype=np.uint8)
    data = load_data(save_npz(tmp_path, x=images, y=labels), RGB8, preprocess=NONE)
    assert len(data) == 7
    assert data.labels is not None
    assert data.labels.dtype == np.int64
    batches = list(data.batches(3))
    assert [batch.count for batch in batches] == [3, 3, 1]
    assert [list(batch.labels) for batch in batches if batch.labels is not None] == [[0, 1, 2], [3, 4, 5], [6]]
    assert np.array_equal(everything(data), everything(data)), "a second walk gives the same"


def test_npz_of_float_images_is_taken_as_it_is(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
    data = load_data(save_npz(tmp_path, x=images), RGB8, preprocess=Preprocess(mean=(0.5,), resize=4))
    assert np.array_equal(everything(data), images)
    assert data.labels is None


def test_npz_for_several_inputs_is_read_by_name(tmp_path: Path) -> None:
    left, right = np.ones((4, 2), np.float32), np.arange(12).reshape(4, 3)
    path = save_npz(tmp_path, left=left, right=right, y=[1, 2, 3, 4], unrelated=["a"])
    (batch,) = load_data(path, TWO, preprocess=NONE).batches(4)
    assert set(batch.feeds) == {"left", "right"}
    assert np.array_equal(batch.feeds["right"], right)
    assert batch.labels is not None
    assert list(batch.labels) == [1, 2, 3, 4]


def test_input_called_y_is_an_input_not_labels() -> None:
    spec = (InputSpec("y", (None, 2), FLOAT),)
    rows = np.ones((3, 2), np.float32)
    assert load_data({"y": rows}, spec, preprocess=NONE).labels is None
    labels = load_data((rows, np.array([2, 1, 0])), spec, preprocess=NONE).labels
    assert labels is not None
    assert list(labels) == [2, 1, 0]


IMAGES = pixels(4)
FLOATS = np.zeros((4, 3, 8, 8), np.float32)
HOLED = FLOATS.copy()
HOLED[2, 1, 3, 3] = np.nan
INFINITE = FLOATS.copy()
INFINITE[3, 0, 0, 0] = -np.inf


@pytest.mark.parametrize(
    ("arrays", "specs", "message"),
    [
        pytest.param({"images": IMAGES}, RGB8, "has no array x (it holds images)", id="no_x"),
        pytest.param({"x": IMAGES[:0]}, RGB8, "x holds no samples", id="zero_images"),
        pytest.param(
            {"x": FLOATS.astype(np.int64)}, RGB8, "x is int64, the model's input 'image' float32 [?, 3, 8, 8] "
            "takes float32; save it as float32 or as uint8 [n, h, w, c]", id="integers",
        ),
        pytest.param({"x": IMAGES[..., 0]}, RGB8, "x has rank 3, the model's input 'image' float32 [?, 3, 8, 8] takes "
                     "rank 4; uint8 images are [n, h, w, c], grey ones x[..., None]", id="rank"),
        pytest.param({"x": FLOATS[..., :7]}, RGB8, "x has shape (4, 3, 8, 7), which does not fit", id="float_shape"),
        pytest.param({"x": IMAGES.transpose(0, 3, 1, 2)}, RGB8, "x.transpose(0, 2, 3, 1) makes it", id="uint8_nchw"),
        pytest.param({"x": pixels(2, 16)}, RGB8, "x: image is 16x16; the model takes 8x8; use `resize=8`",
                     id="size"),
        pytest.param({"x": np.array(3.0)}, RGB8, "x has rank 0", id="scalar"),
        pytest.param({"x": HOLED}, RGB8, "x[2] holds NaN or Inf", id="nan"),
        pytest.param({"x": INFINITE}, RGB8, "x[3] holds NaN or Inf", id="inf"),
        pytest.param({"x": IMAGES, "y": [0.0, 1, 2, 3]}, RGB8, "labels are float64, not integers", id="label_type"),
        pytest.param({"x": IMAGES, "y": [0, 1, 2]}, RGB8, "labels have shape (3,) for 4 samples", id="label_length"),
        pytest.param({"x": IMAGES, "y": [[0], [1], [2], [3]]}, RGB8, "labels have shape (4, 1)", id="label_rank"),
        pytest.param({"x": IMAGES, "y": [0, 1, -1, 3]}, RGB8, "label -1 of sample 2 is out of range", id="label_minus"),
        pytest.param({"left": np.ones((4, 2), FLOAT)}, TWO, "no array for the model's input 'right' (it holds left)",
                     id="input_missing"),
        pytest.param({"left": np.ones((4, 2), FLOAT), "right": np.ones((3, 3), np.int64)}, TWO,
                     "arrays of different lengths {'left': 4, 'right': 3}", id="lengths"),
    ],
)  # fmt: skip
def test_npz_refuses(tmp_path: Path, arrays: dict[str, Any], specs: tuple[InputSpec, ...], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        load_data(save_npz(tmp_path, **arrays), specs, preprocess=NONE)
    assert "data.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nan_is_named_by_its_place_in_the_file_under_a_limit(tmp_path: Path) -> None:
    images = np.zeros((40, 3, 8, 8), np.float32)
    images[10:] = np.nan
    with pytest.raises(DataError, match=r"x\[1\d\] holds NaN"):
        load_data(save_npz(tmp_path, x=images), RGB8, preprocess=NONE, limit=4, seed=1)


def test_truncated_npz_is_refused(tmp_path: Path) -> None:
    path = save_npz(tmp_path, x=IMAGES)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"data\.npz cannot be read as \.npz: it is truncated"):
        load_data(path, RGB8, preprocess=NONE)


def test_npz_of_objects_is_refused_not_unpickled(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it has an array of Python objects"):
        load_data(save_npz(tmp_path, x=np.array([{}, {}])), RGB8, preprocess=NONE)


@pytest.mark.parametrize(
    ("name", "message"),
    [("none.npz", "none.npz: no such file or folder; give an .npz"), ("none", "none: no such file or folder")],
)
def test_missing_path_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        load_data(tmp_path / name, RGB8, preprocess=NONE)


def test_other_files_are_refused(tmp_path: Path) -> None:
    for name in ("data.csv", "data.npy", "data.py"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"cannot be read as \.npy: it is damaged or no array; np\.save"):
        load_data(tmp_path / "data.npy", RGB8, preprocess=NONE)
    np.save(tmp_path / "data.npy", np.array([{}]))
    with pytest.raises(DataError, match=r"cannot be read as \.npy: it is damaged or no array; np\.save"):
        load_data(tmp_path / "data.npy", RGB8, preprocess=NONE)
    with pytest.raises(DataError, match=r"cannot be read from a '\.csv' file; use an \.npz file or a folder"):
        load_data(tmp_path / "data.csv", RGB8, preprocess=NONE)
    with pytest.raises(UsageError, match=r"yields the data: .*data\.py:CALLABLE"):
        load_data(tmp_path / "data.py", RGB8, preprocess=NONE)
    (tmp_path / "data.py").write_text("def train(): ...\ndef _own(): ...\ndef test(): ...\n")
    with pytest.raises(UsageError, match=r"yields the data: [^ ]*data\.py:train, [^ ]*data\.py:test$"):
        load_data(tmp_path / "data.py", RGB8, preprocess=NONE)


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(DataError, match=f"limit {limit} leaves no samples"):
        load_data(IMAGES, RGB8, preprocess=NONE, limit=limit)


def test_model_without_inputs_is_refused() -> None:
    with pytest.raises(DataError, match="the model has no inputs to feed"):
        load_data(IMAGES, (), preprocess=NONE)


# --- folders ---------------------------------------------------------------------------------------------------------


def test_folder_is_read_in_sorted_order_without_other_files(tmp_path: Path) -> None:
    images = pixels(4)
    for name, image in zip(["b.png", "a/deep/c.BMP", "a/a.png", "a/b.webp"], images, strict=True):
        save_image(tmp_path / name.replace("webp", "png"), image)
    save_image(tmp_path / ".hidden" / "d.png", images[0])
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "._a.png").write_text("what macOS leaves behind")
    data = load_data(tmp_path, RGB8, preprocess=NONE)
    expected = images[[2, 3, 1, 0]].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    assert np.array_equal(everything(data), expected)
    assert data.labels is None, "images beside class folders have no class"


@pytest.mark.parametrize(
    ("folders", "labels"),
    [(["cat", "bird", "dog"], [0, 1, 2]), (["0007", "10", "0002"], [2, 7, 10]), (["7", "10", "x"], [0, 1, 2])],
    ids=["names", "integers", "mixed"],
)
def test_class_folders_give_labels(tmp_path: Path, folders: list[str], labels: list[int]) -> None:
    for folder in folders:
        save_image(tmp_path / folder / "0.png", IMAGES[0])
    (tmp_path / "README.md").write_text("no class")
    (tmp_path / ".cache").mkdir()
    data = load_data(tmp_path, RGB8, preprocess=NONE)
    assert data.labels is not None
    assert list(data.labels) == labels


def test_labels_follow_their_images_through_limit_and_select(tmp_path: Path) -> None:
    for label in range(20):
        save_image(tmp_path / f"{label:02}" / "0.png", np.full((8, 8, 3), label, np.uint8))
    data = load_data(str(tmp_path), RGB8, preprocess=NONE, limit=7, seed=3)
    for batch in data.select([6, 0, 3]).batches(2):
        assert batch.labels is not None
        assert np.array_equal(batch.labels, np.round(batch.feeds["image"][:, 0, 0, 0] * 255))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(np.full((8, 8), 255, np.uint8))
    image = Image.fromarray(np.full((8, 8), 65535, np.uint16)) if mode == "I;16" else grey.convert(mode)
    assert image.mode == mode
    image.save(tmp_path / ("0.jpg" if mode == "CMYK" else "0.png"))
    assert (everything(load_data(tmp_path, RGB8, preprocess=NONE)) == 1).all()
    assert (everything(load_data(tmp_path, GREY8, preprocess=NONE)) == 1).all()


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"no images \(\.jpg, \.jpeg, \.png, \.bmp, \.webp\) in this folder"):
        load_data(tmp_path, RGB8, preprocess=NONE)


def test_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", IMAGES[0])
    (tmp_path / "b.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"b\.png: cannot be read as an image \(UnidentifiedImageError"):
        load_data(tmp_path, RGB8, preprocess=NONE)


def test_truncated_image_is_named_when_it_is_decoded(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png", IMAGES[0])
    path.write_bytes(path.read_bytes()[:80])
    data = load_data(tmp_path, RGB8, preprocess=NONE)
    with pytest.raises(DataError, match=r"a\.png: cannot be read as an image"):
        next(data.batches(1))


def test_image_of_another_size_says_both_sizes_and_what_to_do(tmp_path: Path) -> None:
    specs = (InputSpec("image", (None, 3, 224, 224), FLOAT),)
    save_image(tmp_path / "cat.jpg", np.zeros((375, 500, 3), np.uint8))
    message = r"cat\.jpg: image is 500x375; the model takes 224x224; use `resize=256` `crop=224`, or `letterbox=224`"
    with pytest.raises(DataError, match=message):
        load_data(tmp_path, specs, preprocess=NONE)
    message = r"cat\.jpg: image is 500x375, 298x224 after `resize=`/`crop=`; the model takes 224x224; use `resize=256`"
    with pytest.raises(DataError, match=message):
        load_data(tmp_path, specs, preprocess=Preprocess(resize=224))
    data = load_data(tmp_path, specs, preprocess=Preprocess(resize=256, crop=224))
    assert everything(data).shape == (1, 3, 224, 224)


def test_image_smaller_than_the_crop_is_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", IMAGES[0])
    with pytest.raises(DataError, match=r"a\.png: image of 8x8 is smaller than `crop=9`; use `resize=9` as well"):
        load_data(tmp_path, ANY_SIZE, preprocess=Preprocess(crop=9))


def test_sizes_that_differ_are_refused_where_the_model_takes_any(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", IMAGES[0])
    save_image(tmp_path / "b.png", np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(DataError, match=r"b\.png: image is 6x4, .*a\.png is 8x8; use `resize="):
        load_data(tmp_path, ANY_SIZE, preprocess=NONE)


def test_model_that_is_not_square_gets_a_hint_that_can_be_followed() -> None:
    with pytest.raises(DataError, match="image is 8x8; the model takes 6x4; bring the images to 6x4 first"):
        load_data(IMAGES, (InputSpec("image", (None, 3, 4, 6), FLOAT),), preprocess=NONE)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (TWO, "a folder of images is one array, and the model has 2 (left, right)"),
        (TWO[:1], "images do not fit the model's input 'left' float32 [?, 2]; give an .npz"),
    ],
)
def test_folder_for_a_model_without_an_image_input_is_refused(
    tmp_path: Path, specs: tuple[InputSpec, ...], message: str
) -> None:
    save_image(tmp_path / "a.png", IMAGES[0])
    with pytest.raises(DataError, match=re.escape(message)):
        load_data(tmp_path, specs, preprocess=NONE)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    specs = (InputSpec("image", (None, 3, 128, 128), FLOAT),)
    peaks = []
    for count in (8, 80):
        for index in range(count):
            save_image(tmp_path / str(count) / f"{index}.png", np.full((128, 128, 3), index, np.uint8))
        data = load_data(tmp_path / str(count), specs, preprocess=NONE)
        tracemalloc.start()
        for _ in data.batches(4):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]  # ten times the images


# --- Dataset ---------------------------------------------------------------------------------------------------------


def numbered(count: int) -> Dataset:
    """A data set in which row i has the value i."""
    return load_data(np.arange(count, dtype=np.float32)[:, None], (InputSpec("x", (None, 1), FLOAT),), preprocess=NONE)


def test_fixed_batch_size_fills_the_last_batch_and_says_so() -> None:
    specs = (InputSpec("x", (4, 1), FLOAT),)
    labels = np.arange(6)
    data = load_data((labels[:, None].astype(np.float32), labels), specs, preprocess=NONE)
    first, last = data.batches(16)
    assert (first.count, last.count, last.padding) == (4, 2, 2)
    assert list(last.feeds["x"][:, 0]) == [4, 5, 5, 5]
    assert last.labels is not None
    assert list(last.labels) == [4, 5]


def test_limit_takes_one_row_of_every_stride() -> None:
    rows = everything(numbered(103).limit(10, seed=5))[:, 0]
    edges = np.arange(11) * 103 // 10
    assert ((rows >= edges[:-1]) & (rows < edges[1:])).all()


def test_limit_covers_the_classes_of_sorted_and_of_cycling_data() -> None:
    rows = everything(numbered(1000).limit(100))[:, 0].astype(int)
    assert set(rows // 100) == set(range(10)), "sorted by class"
    assert set(rows % 10) == set(range(10)), "cycling through the classes, where an even stride would find one only"


def test_limit_depends_on_the_seed_and_on_nothing_else() -> None:
    data = numbered(100)
    assert np.array_equal(everything(data.limit(9, seed=1)), everything(data.limit(9, seed=1)))
    assert not np.array_equal(everything(data.limit(9, seed=1)), everything(data.limit(9, seed=2)))
    assert np.array_equal(everything(data.limit(100, seed=7)), everything(data))


def test_split_is_a_partition() -> None:
    first, second = numbered(50).split(20, seed=4)
    assert (len(first), len(second)) == (20, 30)
    assert set(everything(first)[:, 0]) | set(everything(second)[:, 0]) == set(range(50))


@pytest.mark.parametrize("n", [0, 5, 6])
def test_split_that_leaves_nothing_is_refused(n: int) -> None:
    with pytest.raises(DataError, match=f"5 samples cannot be split into {n} and the rest"):
        numbered(5).split(n)


def test_select_refuses_rows_that_are_not_there() -> None:
    with pytest.raises(DataError, match="no samples left; select at least one"):
        numbered(5).select([])
    with pytest.raises(IndexError, match=r"rows 3\.\.5 of a data set of 5"):
        numbered(5).select([3, 5])
    with pytest.raises(DataError, match="limit 0 leaves no samples"):
        numbered(5).limit(0)
    with pytest.raises(ValueError, match="batch size 0 is not positive"):
        next(numbered(5).batches(0))


def test_digest_depends_on_the_rows_in_use(tmp_path: Path) -> None:
    data = numbered(200)
    assert data.digest() == numbered(200).digest()
    assert data.digest() == data.select(np.arange(200)).digest()
    assert len({data.digest(), data.limit(100).digest(), data.select(np.arange(200)[::-1]).digest()}) == 3
    images, labels = IMAGES, np.arange(4)
    assert load_data(images, RGB8, preprocess=NONE).digest() != load_data((images, labels), RGB8).digest()
    for name in "ab":
        save_image(tmp_path / f"{name}.png", IMAGES[0])
    folder = load_data(tmp_path, RGB8, preprocess=NONE)
    before = folder.digest()
    save_image(tmp_path / "b.png", IMAGES[1])
    assert folder.digest() != before


def test_describe_is_what_evaluate_prints(tmp_path: Path) -> None:
    data = load_data(save_npz(tmp_path, x=IMAGES, y=np.arange(4)), RGB8, preprocess=NONE, limit=3)
    expected = {"source": str(tmp_path / "data.npz"), "images": 3, "labels": True, "sha256": data.digest()}
    assert data.describe() == expected | {"preprocess": NONE.values()}
    ready = load_data(np.zeros((2, 3, 8, 8), np.float32), RGB8)
    assert ready.describe()["preprocess"] is None
