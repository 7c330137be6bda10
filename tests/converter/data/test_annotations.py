"""Labels of any name and form reach the samples that they belong to."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.data.annotations import annotations_of
from converter.data.dataset import Dataset, load_data
from converter.data.inputs import InputSpec
from passes.errors import DataError

SPECS = (InputSpec("x", (None, 4), np.dtype(np.float32)),)
X = np.arange(24, dtype=np.float32).reshape(6, 4)
MASKS = np.arange(6 * 4).reshape(6, 2, 2)
BOXES = np.array([[0, 7, 1, 1, 2, 2], [2, 5, 0, 0, 1, 1], [0, 8, 3, 3, 4, 4]], np.float32)


def truth(data: Dataset, size: int = 4) -> dict[str, list[Any]]:
    collected: dict[str, list[Any]] = {}
    for batch in data.batches(size):
        for name, each in batch.truth.items():
            collected.setdefault(name, []).extend(list(each))
    return collected


def test_arrays_and_tables_of_an_npz_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X, y=np.arange(6), masks=MASKS, boxes=BOXES)
    data = load_data(tmp_path / "d.npz", SPECS, annotated=True)
    labels = truth(data)
    assert labels["y"] == list(range(6))
    np.testing.assert_array_equal(labels["masks"], MASKS)
    assert [len(rows) for rows in labels["boxes"]] == [2, 0, 1, 0, 0, 0]
    np.testing.assert_array_equal(labels["boxes"][0], BOXES[[0, 2], 1:])
    assert set(truth(load_data(tmp_path / "d.npz", SPECS))) == {"y"}


def test_as_many_boxes_as_samples_are_a_table() -> None:
    boxes = np.array([[0, 7, 1, 1, 2, 2], [2, 5, 0, 0, 1, 1], [0, 8, 3, 3, 4, 4]], np.float32)
    labels = annotations_of("d", {"boxes": boxes, "pose": boxes}, 3).values
    assert [len(rows) for rows in labels["boxes"]] == [2, 0, 1]
    np.testing.assert_array_equal(labels["pose"], boxes)


def test_labels_follow_a_selection(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X, masks=MASKS, boxes=BOXES)
    data = load_data(tmp_path / "d.npz", SPECS, annotated=True).select([2, 0])
    labels = truth(data, 1)
    np.testing.assert_array_equal(labels["masks"], MASKS[[2, 0]])
    assert [len(rows) for rows in labels["boxes"]] == [1, 2]
    limited = load_data(tmp_path / "d.npz", SPECS, annotated=True, limit=3)
    for batch in limited.batches(1):
        row = int(batch.feeds["x"][0, 0]) // 4
        np.testing.assert_array_equal(batch.truth["masks"][0], MASKS[row])


def test_labels_of_a_callable() -> None:
    def batches() -> Any:
        yield (
            X[:4],
            {"text": ["a", "b", "c", "d"], "boxes": [BOXES[:1, 1:], BOXES[:0, 1:], BOXES[:2, 1:], BOXES[:0, 1:]]},
        )
        yield X[4:], {"text": ["e", "f"], "boxes": [BOXES[:0, 1:]] * 2}

    labels = truth(load_data(batches, SPECS, annotated=True), 3)
    assert labels["text"] == list("abcdef")
    assert [len(rows) for rows in labels["boxes"]] == [1, 0, 2, 0, 0, 0]


def test_labels_beside_one_array() -> None:
    assert truth(load_data((X, list("abcdef")), SPECS, annotated=True))["y"] == list("abcdef")
    labels = truth(load_data((X, {"depth": X * 2}), SPECS, annotated=True))
    np.testing.assert_array_equal(labels["depth"], X * 2)
    targets = truth(load_data({"x": X, "y": X[:, 0] / 2}, SPECS, annotated=True))
    np.testing.assert_array_equal(targets["y"], X[:, 0] / 2)


def test_labels_that_fit_no_sample() -> None:
    with pytest.raises(DataError, match=r"d: masks has shape \[5, 2, 2\], and there are 6 samples"):
        annotations_of("d", {"masks": MASKS[:5]}, 6)

    def batches() -> Any:
        yield X[:4], {"text": ["a", "b"]}

    with pytest.raises(DataError, match="text has 2 entries for 4 samples"):
        load_data(batches, SPECS, annotated=True)
