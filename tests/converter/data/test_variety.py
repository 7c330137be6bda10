"""Samples that say little: warnings, and silence about samples that are as they should be."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from converter import convert
from converter.data.dataset import Dataset, load_data
from converter.data.inputs import InputSpec
from converter.data.labels import Classes
from converter.data.variety import little_variety
from tests.support.command_line import SCALE, run
from tests.support.models import CLASSES, SIDE, images, small_cnn

DRAW = np.random.default_rng(0)
SHAPE = (3, 16, 16)


def samples(rows: Any, labels: Any = None) -> Dataset:
    specs = (InputSpec("x", (None, *SHAPE), np.dtype(np.float32)),)
    return load_data(np.asarray(rows, np.float32) if labels is None else (np.asarray(rows, np.float32), labels), specs)


def pictures(count: int) -> Any:
    """Coarse patterns with noise, as photographs have."""
    coarse = DRAW.standard_normal((count, 3, 4, 4))
    return np.kron(coarse, np.ones((1, 1, 4, 4))) + 0.3 * DRAW.standard_normal((count, *SHAPE))


@pytest.mark.parametrize(
    "rows",
    [pictures(64), DRAW.standard_normal((64, *SHAPE)), DRAW.random((9, *SHAPE)), pictures(7).repeat(1, axis=0)],
    ids=["pictures", "noise", "uniform noise", "few"],
)
def test_ordinary_samples_are_not_mentioned(rows: Any) -> None:
    assert list(little_variety(samples(rows), Classes("m", 5))) == []


def test_near_copies() -> None:
    few = pictures(4)
    rows = few[DRAW.integers(0, 4, 64)] + 0.01 * DRAW.standard_normal((64, *SHAPE))
    (found,) = little_variety(samples(rows), None)
    assert "60 of 64 samples are nearly copies of others" in found
    (same,) = little_variety(samples(np.repeat(few[:1], 16, axis=0)), None)
    assert "15 of 16 samples are nearly copies" in same
    half = np.concatenate([pictures(40), few])  # a few copies are no matter
    assert list(little_variety(samples(np.concatenate([half, half[:20]])), None)) == []


def test_constant_samples() -> None:
    rows = pictures(40)
    rows[::4] = DRAW.random((10, 1, 1, 1))
    (found,) = little_variety(samples(rows), None)
    assert "10 of 40 samples are constant" in found


@pytest.mark.parametrize(("present", "warned"), [(2, True), (5, True), (6, False), (10, False)])
def test_few_classes(present: int, warned: bool) -> None:
    labels = np.arange(60) % present
    found = list(little_variety(samples(pictures(60), labels), Classes("m", 10)))
    assert bool(found) == warned
    if warned:
        assert f"are of {present} of 10 classes; give some of each class" in found[0]
    assert list(little_variety(samples(pictures(20), labels[:20]), Classes("m", 10))) == []  # too few to tell
    assert list(little_variety(samples(pictures(60), labels), None)) == []


def test_a_conversion_says_so(caplog: pytest.LogCaptureFixture) -> None:
    rows = np.repeat(images(1), 32, axis=0)
    with caplog.at_level(logging.WARNING):
        convert(small_cnn(), rows.transpose(0, 3, 1, 2).astype(np.float32))
    assert rows.shape == (32, SIDE, SIDE, 3)
    assert CLASSES
    assert any("31 of 32 samples are nearly copies of others" in record.message for record in caplog.records)


@pytest.mark.parametrize(
    ("pixels", "labels", "expected"),
    [
        (np.repeat(images(1), 40, axis=0), np.arange(40) % CLASSES, "39 of 40 images are nearly copies of others"),
        (np.full((40, SIDE, SIDE, 3), 7, np.uint8), np.arange(40) % CLASSES, "40 of 40 images are constant"),
        (images(40), np.full(40, 2), f"the samples that calibrate are of 1 of {CLASSES} classes"),
        (images(40), np.arange(40) % CLASSES, None),
    ],
    ids=["near copies", "constant", "one class", "ordinary"],
)
def test_the_command_warns(pixels: Any, labels: Any, expected: str | None, tmp_path: Path) -> None:
    source, data = tmp_path / "model.onnx", tmp_path / "data.npz"
    onnx.save(small_cnn(), source)
    np.savez(data, x=pixels, y=labels)
    result = run("convert", str(source), "-o", str(tmp_path / "out.onnx"), "--calibration", str(data), *SCALE)
    assert result.exit_code == 0
    output = " ".join(result.output.split())
    warned = ("nearly copies", "are constant", "samples that calibrate are of")
    assert [each in output for each in warned] == [expected is not None and each in expected for each in warned]
    assert expected is None or expected in output


def test_many_equal_samples_beside_a_few_others() -> None:
    rows = np.concatenate([np.repeat(pictures(1), 60, axis=0), pictures(4)])
    (found,) = little_variety(samples(rows), None)
    assert "59 of 64 samples are nearly copies" in found
