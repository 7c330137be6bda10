"""Samples that are whole runs: inputs whose shapes share no batch axis, and samples of different sizes."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.data.dataset import load_data
from converter.data.inputs import InputSpec, input_specs, sequence_first, share_batch, static_batch
from passes.errors import DataError
from tests.support.recurrent import FRAME, recurrent, runs

FLOAT = np.dtype(np.float32)
STATE = input_specs(recurrent())
NAMED = input_specs(recurrent(gain=False))
UNNAMED = input_specs(recurrent(gain=False, names=False))


def spec(name: str, *shape: int | str | None) -> InputSpec:
    sizes = tuple(size if isinstance(size, int) else None for size in shape)
    return InputSpec(name, sizes, FLOAT, tuple(size if isinstance(size, str) else None for size in shape))


@pytest.mark.parametrize(
    ("specs", "shared", "fixed"),
    [
        ((spec("a", "n", 3), spec("b", "n", 4)), True, None),
        ((spec("a", None, 3), spec("b", None, 4)), True, None),
        ((spec("a", "first", 3), spec("b", "second", 4)), True, None),
        ((spec("a", 4, 3), spec("b", 4)), True, 4),
        ((spec("a", "n", 3), spec("b")), False, None),
        ((spec("a", 2, 3), spec("b", 4, 3)), False, None),
        ((spec("a", "n", 3), spec("state", 2, "n", 3)), False, None),
        ((spec("a", "n", 3), spec("state", "layers", "n", 3)), False, None),
        ((spec("tokens", "length", "n"), spec("lengths", "n")), False, None),
    ],
)
def test_whether_inputs_share_a_batch(specs: tuple[InputSpec, ...], shared: bool, fixed: int | None) -> None:
    assert share_batch(specs) == shared
    assert static_batch(specs) == fixed


@pytest.mark.parametrize(
    ("specs", "sequence"),
    [
        ((spec("a", "n", 3),), False),
        ((spec("a", "batch_size", "time", 3),), False),
        ((spec("a", None, 3),), False),
        ((spec("a", "rows", 3),), False),
        ((spec("a", "time", 3),), True),
        ((spec("a", "T", "B", 3),), True),
        ((spec("a", "seq_len", 3),), True),
        ((spec("a", "rows", "batch", 3),), True),
        ((spec("a", 5, "n", 3),), True),
    ],
)
def test_whether_axis_0_is_a_sequence(specs: tuple[InputSpec, ...], sequence: bool) -> None:
    assert sequence_first(specs) == sequence


@pytest.mark.parametrize(
    ("first", "lengths", "whole"),
    [
        ("time", [4, 4], True),
        ("time", [4, 5, 6], True),
        (None, [4, 6, 5], True),
        (None, [4, 4, 3], False),  # the last batch
        ("n", [4, 6, 5], False),
    ],
)
def test_a_sequence_on_axis_0_is_not_cut(first: str | None, lengths: list[int], whole: bool) -> None:
    """Its steps are no samples. The model would see sequences of one step."""
    calls = [np.full((length, 1, 2), length, np.float32) for length in lengths]
    data = load_data(lambda: iter(calls), (spec("x", first, 1, 2),))
    assert data.whole == whole
    assert len(data) == (len(lengths) if whole else sum(lengths))
    labelled = [(call, np.zeros(len(call), np.int64)) for call in calls]
    assert not load_data(lambda: iter(labelled), (spec("x", first, 1, 2),)).whole


def test_the_mask_of_an_attention_may_be_minus_infinity() -> None:
    """Only beside other inputs, and only if all of its other numbers are one."""
    both = spec("x", "n", 3), spec("mask", "n", 3)
    x, mask = np.ones((2, 3), np.float32), np.array([[0, 0, -np.inf], [0, -np.inf, -np.inf]], np.float32)
    assert len(load_data({"x": x, "mask": mask}, both)) == 2
    for wrong in (-mask, mask + np.arange(3, dtype=np.float32), np.full((2, 3), np.nan, np.float32)):
        with pytest.raises(DataError, match=r"mask\[[01]\] holds NaN or Inf"):
            load_data({"x": x, "mask": wrong}, both)
    with pytest.raises(DataError, match="holds NaN or Inf"):
        load_data(mask, both[1:])


@pytest.mark.parametrize("specs", [NAMED, UNNAMED], ids=["named", "unnamed"])
def test_a_callable_yields_whole_runs(specs: tuple[InputSpec, ...]) -> None:
    data = load_data(lambda: runs(6, gain=False), specs)
    assert data.whole
    assert data.alone
    assert data.static_batch is None
    assert len(data) == 6
    for batch, expected in zip(data.batches(16), runs(6, gain=False), strict=True):
        assert (batch.count, batch.padding, batch.whole) == (1, 0, True)
        for name, values in expected.items():
            np.testing.assert_array_equal(batch.feeds[name], values)


def test_an_input_without_axes() -> None:
    data = load_data(lambda: runs(4), STATE)
    assert [batch.feeds["gain"].shape for batch in data.batches()] == [()] * 4
    assert [batch.feeds["x"].shape for batch in data.batches()] == [(1, FRAME), (2, FRAME), (3, FRAME), (1, FRAME)]
    assert data.name(2) == "2"
    assert data.select([2, 0]).name(0) == "2"
    assert next(data.select([2]).batches()).feeds["x"].shape == (3, FRAME)
    assert data.select([0, 1]).digest() != data.select([1, 0]).digest()


def one_frame(count: int) -> list[dict[str, Any]]:
    """Runs of one frame each."""
    return [run for run in runs(3 * count) if len(run["x"]) == 1]


def test_rows_of_runs(tmp_path: Path) -> None:
    """Rows on axis 0 of each array: [rows, *shape of one run], or the axis of size 1 itself."""
    each = one_frame(5)
    arrays: dict[str, Any] = {"x": np.concatenate([run["x"] for run in each])} | {
        name: np.stack([run[name] for run in each]) for name in ("state", "gain")
    }
    assert arrays["state"].shape == (5, 2, 1, 16)
    np.savez(tmp_path / "d.npz", **arrays, y=np.arange(5))
    for source in (str(tmp_path / "d.npz"), {**arrays, "y": np.arange(5)}, [{**arrays, "y": np.arange(5)}]):
        data = load_data(source, STATE)
        assert data.whole
        assert data.labels is not None
        assert list(data.labels) == [0, 1, 2, 3, 4]
        for batch, expected in zip(data.batches(), each, strict=True):
            for name, values in expected.items():
                np.testing.assert_array_equal(batch.feeds[name], values)


def test_arrays_of_one_run() -> None:
    data = load_data(next(runs(1)), STATE)
    assert len(data) == 1


def test_what_fits_neither_form_is_refused_with_what_such_a_model_needs() -> None:
    feeds = next(runs(1)) | {"state": np.zeros((3, 1, 16), np.float32), "x": np.zeros((4, FRAME), np.float32)}
    specs = (STATE[0], spec("state", 2, "n", 16), STATE[2])
    with pytest.raises(DataError, match=re.escape("yield a dictionary of all inputs for each run from a callable")):
        load_data(feeds, specs)


def test_labels_of_runs_are_one_each() -> None:
    def labelled() -> Iterator[dict[str, Any]]:
        for index, run in enumerate(runs(3)):
            yield run | {"y": np.array(index)}

    labels = load_data(labelled, STATE).labels
    assert labels is not None
    assert list(labels) == [0, 1, 2]


def test_nan_is_named_by_its_run() -> None:
    def spoilt() -> Iterator[dict[str, Any]]:
        for index, run in enumerate(runs(3)):
            yield run | ({"gain": np.array(np.nan, np.float32)} if index == 1 else {})

    with pytest.raises(DataError, match="gain of run 1 holds NaN or Inf"):
        load_data(spoilt, STATE)


def test_samples_of_different_sizes_fill_a_fixed_batch() -> None:
    specs = (InputSpec("x", (4, None), FLOAT),)
    data = load_data([np.ones((2, 3), FLOAT), np.ones((1, 5), FLOAT)], specs)
    batches = list(data.batches(16))
    assert [batch.feeds["x"].shape for batch in batches] == [(4, 3), (4, 3), (4, 5)]
    assert [(batch.count, batch.padding) for batch in batches] == [(1, 3)] * 3


def test_an_input_without_elements() -> None:
    specs = (spec("x", "n", 3), spec("memory", 2, "past", 4))
    feeds = [{"x": np.ones((1, 3), FLOAT), "memory": np.ones((2, past, 4), FLOAT)} for past in (0, 2)]
    data = load_data(feeds, specs)
    assert [batch.feeds["memory"].shape for batch in data.batches()] == [(2, 0, 4), (2, 2, 4)]
