"""Values as arrays and back, exactly."""

import math
from typing import Any

import numpy as np
import pytest

from converter.cache.stored_values import pack, unpack
from passes.base import Solution
from passes.numerics.channels import ChannelStatistics
from passes.numerics.grid import Grid
from passes.numerics.histogram import Histogram
from passes.numerics.moments import Moments, MomentsAccumulator
from passes.numerics.sparsity import Pruned
from passes.statistics import Stats

DRAW = np.random.default_rng(0)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal in every field, bit for bit."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, float):
        return type(other) is float and (one == other or (math.isnan(one) and math.isnan(other)))
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if hasattr(one, "__dict__"):
        return type(one) is type(other) and same(vars(one), vars(other))
    return bool(one == other)


def moments() -> Moments:
    parts = []
    for _ in range(2):
        total = MomentsAccumulator(1, 4, cross=True, shifted=True)
        rows = DRAW.standard_normal((1, 32, 4), dtype=np.float32)
        total.update(rows, np.float32(0.1) * rows, None)
        parts.append(total.moments())
    return Moments.joined(*parts)


def histogram() -> Histogram:
    made = Histogram()
    made.update(DRAW.standard_normal(1000).astype(np.float32))
    return made


def channels() -> ChannelStatistics:
    made = ChannelStatistics(3)
    made.update(DRAW.standard_normal((10, 3)).astype(np.float32))
    return made


def solution() -> Solution:
    codes = DRAW.integers(-7, 8, (1, 2, 4)).astype(np.int8)
    grid = Grid(4, np.full((1, 2, 2), 0.1, np.float32), np.zeros((1, 2, 2), np.int8), block_size=2)
    return Solution(codes, grid, None, math.inf, 3.5, "a note", Pruned(codes != 0, "2:4"))


@pytest.mark.parametrize(
    "value",
    [
        histogram(),
        channels(),
        moments(),
        solution(),
        Stats({"a/b": histogram()}, {"x": channels()}, {"y": moments()}, {"z": channels()}),
        ("mse", ("a note",), None, True, math.nan, -math.inf, 0.1, 3),
    ],
    ids=["histogram", "channels", "moments", "solution", "stats", "tuple"],
)
def test_a_value_comes_back_exactly(value: Any) -> None:
    assert same(unpack(pack(value)), value)


def test_a_histogram_goes_on_counting() -> None:
    one, rows = histogram(), DRAW.standard_normal(100).astype(np.float32) * 50
    other = unpack(pack(one))
    one.update(rows)
    other.update(rows)
    assert same(one, other)


def test_other_values_are_refused() -> None:
    with pytest.raises(TypeError, match="object is not stored"):
        pack((object(),))
    for arrays in ({}, {"form": np.array("{}")}, {"form": np.array('{"kind": "Path", "fields": {}}')}):
        with pytest.raises(ValueError, match="no stored value"):
            unpack(arrays)
