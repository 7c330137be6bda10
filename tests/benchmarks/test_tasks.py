"""Tasks by their own metrics: the drawn data fit their labels, the bars are counted, and one task runs for real."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.tasks.__main__ import TASKS, NoteF1, Row, measured, misses
from benchmarks.tasks.scenes import KEYPOINTS, SIDE, figures, notes, pictures, shapes, surfaces, text_lines


def test_drawn_data_have_their_labels() -> None:
    assert set(np.unique(shapes(8, 0)["y"])) == {0, 1, 2, 3}
    depth = surfaces(4, 0)["y"]
    assert depth.shape == (4, 1, SIDE, SIDE)
    assert depth.min() > 0
    small = pictures(4, 0)
    assert small["x"].shape == (4, 1, SIDE // 2, SIDE // 2)
    assert np.allclose(small["x"].mean((1, 2, 3)), small["y"].mean((1, 2, 3)), atol=1e-5)
    points = figures(4, 0)["keypoints"]
    assert points.shape == (4, KEYPOINTS, 3)
    assert (points[:, 0, 1] < points[:, 1, 1]).all(), "heads are above hips"
    assert all(6 <= len(text) < 15 for text in text_lines(4, 0)["y"])


def test_a_note_sounds_where_the_roll_says() -> None:
    sounds = notes(4, 0)
    loud = np.abs(sounds["x"][:, : 172 * 254, 0]).reshape(4, 172, 254).mean(2)
    for row in range(4):
        silent = ~sounds["notes"][row].any(1)
        assert loud[row][~silent].mean() > 5 * loud[row][silent].mean()


@pytest.mark.parametrize("scenes", [shapes, surfaces, pictures, figures, text_lines])
def test_equal_seeds_give_equal_data(scenes: type) -> None:
    one, same, other = scenes(2, 1), scenes(2, 1), scenes(2, 2)
    assert np.array_equal(one["x"], same["x"])
    assert not np.array_equal(one["x"], other["x"])


def test_f1_of_notes() -> None:
    metric = NoteF1()
    right = np.zeros((1, 4, 3), np.int64)
    right[0, :2, 1] = 1
    found = np.zeros((1, 4, 3))
    found[0, 1:3, 1] = 0.9
    metric.update({"StatefulPartitionedCall:1": found}, {"notes": right})
    assert metric.value() == 50  # one of two found is right, and one of two right is found


@pytest.mark.parametrize(("values", "missed"), [((90, 89.6, 80, 89.1), 0), ((90, 89.4, 80, 88.9), 2)])
def test_bars(values: tuple[float, ...], missed: int) -> None:
    """A drop of 0.5 for int8, twice as much for the budget's file on other samples, and int4 is shown only."""
    rows = [
        Row("pose", file, value, 30.0, 0.5, 1.0)
        for file, value in zip(("float", "int8", "int4", "budget"), values, strict=True)
    ]
    assert len(misses(TASKS["pose"], rows, higher_is_better=True)) == missed
    worse = [replace(row, metric=-row.metric) for row in rows]
    assert len(misses(TASKS["pose"], worse, higher_is_better=False)) == missed


@pytest.mark.slow
def test_a_task_runs_for_real(tmp_path: Path) -> None:
    """Super-resolution by PSNR, trained for fewer steps."""
    pytest.importorskip("torch")
    from benchmarks.tasks.networks import super_resolution

    task = replace(TASKS["super-resolution"], model=partial(super_resolution, pictures, 60), count=48)
    rows = {row.file: row for row in measured("super-resolution", task, tmp_path)}
    assert list(rows) == ["float", "int8", "int4", "budget"]
    assert rows["float"].metric > 20
    assert misses(task, list(rows.values()), higher_is_better=True) == []
    assert rows["budget"].bytes <= rows["int8"].bytes < 0.6
