"""Batches from callables and iterables, the library's own forms of data, and every refusal."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from converter.data.dataset import Dataset, load_data
from converter.data.inputs import InputSpec
from converter.data.preprocess import Preprocess
from passes.errors import DataError

FLOAT = np.dtype(np.float32)
RGB8 = (InputSpec("image", (None, 3, 8, 8), FLOAT),)
ANY_SIZE = (InputSpec("image", (None, 3, None, None), FLOAT),)
TWO = (InputSpec("left", (None, 2), FLOAT), InputSpec("right", (None, 3), np.dtype(np.int64)))
NONE = Preprocess()
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


def everything(data: Dataset) -> NDArray[Any]:
    return np.concatenate([next(iter(batch.feeds.values()))[: batch.count] for batch in data.batches(3)])


LOADER = """
import numpy as np
from beside import SIDE

def arrays():
    for value in range(5):
        yield np.full((2, 3, SIDE, SIDE), value, np.float32)

def labelled():
    for value in range(3):
        yield np.full((2, 3, 8, 8), value, np.float32), np.array([value, value])

def named():
    yield {"left": np.ones((2, 2), np.float32), "right": np.ones((2, 3), np.int64), "y": np.array([1, 0])}

def random():
    yield np.random.default_rng().normal(size=(4, 3, 8, 8)).astype(np.float32)

def endless():
    while True:
        yield np.zeros((3, 3, 8, 8), np.float32)

def whole():
    return np.zeros((5, 8, 8, 3), np.uint8)

def broken():
    yield np.zeros((1, 3, 8, 8), np.float32)
    raise KeyError("lost")

def refusing():
    raise RuntimeError("no such bucket")

def nothing():
    return iter(())

def number():
    return 7

def strings():
    yield "a"

def growing():
    yield np.zeros((1, 3, 8, 8), np.float32)
    yield np.zeros((1, 3, 9, 8), np.float32)

def forgetful():
    yield np.zeros((1, 3, 8, 8), np.float32), np.array([1])
    yield np.zeros((1, 3, 8, 8), np.float32)

def poisoned():
    yield np.zeros((3, 3, 8, 8), np.float32)
    yield np.full((3, 3, 8, 8), np.inf, np.float32)

ready = [np.zeros((2, 3, 8, 8), np.float32)] * 2
"""


@pytest.fixture
def loader(tmp_path: Path) -> str:
    (tmp_path / "loader.py").write_text(LOADER)
    (tmp_path / "beside.py").write_text("SIDE = 8")
    return str(tmp_path / "loader.py")


def test_callable_yields_arrays(loader: str) -> None:
    data = load_data(f"{loader}:arrays", RGB8, preprocess=NONE)
    assert list(everything(data)[:, 0, 0, 0]) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert data.labels is None


def test_callable_yields_labels(loader: str) -> None:
    data = load_data(f"{loader}:labelled", RGB8, preprocess=NONE, limit=5)
    assert data.labels is not None
    assert list(data.labels) == [0, 0, 1, 1, 2]


def test_callable_yields_named_arrays(loader: str) -> None:
    (batch,) = load_data(f"{loader}:named", TWO, preprocess=NONE).batches(8)
    assert set(batch.feeds) == {"left", "right"}
    assert batch.labels is not None
    assert list(batch.labels) == [1, 0]


def test_random_callable_gives_the_same_rows_in_every_iteration(loader: str) -> None:
    data = load_data(f"{loader}:random", RGB8, preprocess=NONE)
    assert np.array_equal(everything(data), everything(data))


def test_endless_callable_is_read_up_to_the_limit(loader: str) -> None:
    assert len(load_data(f"{loader}:endless", RGB8, preprocess=NONE, limit=10)) == 10


def test_callable_may_return_one_array_or_be_a_list(loader: str) -> None:
    assert len(load_data(f"{loader}:whole", RGB8, preprocess=NONE)) == 5
    assert len(load_data(f"{loader}:ready", RGB8, preprocess=NONE)) == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("labeled", "has no 'labeled'; did you mean 'labelled'?"),
        ("zzz", "has no 'zzz'; it has arrays, labelled"),
        ("broken", "loader.py:broken raised KeyError: 'lost' (loader.py, line"),
        ("refusing", "loader.py:refusing raised RuntimeError: no such bucket (loader.py, line"),
        ("nothing", "gives no batches; yield at least one"),
        ("number", "gives int, not batches"),
        ("strings", "batch 0: a batch is str; yield an array"),
        ("growing", "batch 1: x has shape (1, 3, 9, 8), which does not fit"),
        ("forgetful", "batch 1 and batch 0 do not both have labels"),
        ("poisoned", "[3] holds NaN or Inf"),
    ],
)
def test_callable_refuses(loader: str, name: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        load_data(f"{loader}:{name}", RGB8, preprocess=NONE)


def test_samples_of_batches_of_different_sizes_run_alone(loader: str) -> None:
    data = load_data(f"{loader}:growing", ANY_SIZE, preprocess=NONE)
    assert data.alone
    assert not data.whole
    assert [batch.feeds["image"].shape for batch in data.batches(16)] == [(1, 3, 8, 8), (1, 3, 9, 8)]


def test_python_file_that_is_missing_or_fails_to_load_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.py: no such file; FILE\.py:CALLABLE takes a path"):
        load_data(f"{tmp_path}/gone.py:f", RGB8, preprocess=NONE)
    (tmp_path / "bad.py").write_text("import nothing_of_that_name")
    with pytest.raises(DataError, match=r"bad\.py: loading it raised ModuleNotFoundError: No module named"):
        load_data(f"{tmp_path}/bad.py:f", RGB8, preprocess=NONE)


def test_library_forms_give_the_same_rows() -> None:
    images, labels = IMAGES, np.arange(6)

    def batches() -> Iterator[Any]:
        for start in range(0, 6, 2):
            yield images[start : start + 2], labels[start : start + 2]

    forms: list[Any] = [images, (images, labels), {"image": images}, batches, list(batches()), batches()]
    expected = everything(load_data(images, RGB8, preprocess=NONE))
    for form in forms:
        data = load_data(form, RGB8, preprocess=NONE)
        assert np.array_equal(everything(data), expected)
        assert (data.labels is None) == (form is forms[0] or form is forms[2])


def test_one_array_for_two_inputs_is_refused() -> None:
    with pytest.raises(DataError, match=r"an array is one array, and the model has 2 \(left, right\)"):
        load_data(IMAGES, TWO, preprocess=NONE)


def test_value_that_is_no_array_is_refused() -> None:
    with pytest.raises(DataError, match="data: left is list, not an array"):
        load_data({"left": [[1], [1, 2]], "right": 1}, TWO, preprocess=NONE)


def test_forms_of_torch() -> None:
    torch = pytest.importorskip("torch")
    images = torch.randn(6, 3, 8, 8)
    dataset = torch.utils.data.TensorDataset(images)
    forms = [
        images,
        torch.utils.data.DataLoader(dataset, batch_size=4),
        [(images[:4],), (images[4:],)],
        torch.utils.data.DataLoader(list(images), batch_size=4),
        lambda: iter(torch.utils.data.DataLoader(dataset, batch_size=4)),
    ]
    for form in forms:
        np.testing.assert_array_equal(everything(load_data(form, RGB8)), images.numpy())


def test_labels_travel_beside_an_input_called_y() -> None:
    def batches() -> Iterator[Any]:
        for start in (0, 2):
            yield np.full((2, 3), start, np.float32), np.array([start, start + 1])

    data = load_data(batches, (InputSpec("y", (None, 3), FLOAT),), preprocess=NONE)
    sent = data.for_processes(shares_disk=False)
    assert sent.labels is not None
    assert list(sent.labels) == [0, 1, 2, 3]
    np.testing.assert_array_equal(everything(sent), everything(data))
