"""Statistics of four shards are those of one process, but for the rounding of floats."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter import Settings, Workers, convert
from converter.calibration.statistics import calibrate
from converter.data.dataset import load_data
from converter.data.inputs import input_specs
from converter.engine.engine import InProcess
from converter.engine.shelf import Shelf
from converter.engine.storage import Storage
from converter.pipeline.shards import calibrate_in_shards, shards_of
from converter.runtime.batch_size import DEFAULT_MEMORY_BUDGET
from converter.runtime.session import no_progress
from passes.errors import UsageError
from passes.numerics.channels import ChannelStatistics
from passes.numerics.histogram import Histogram
from passes.statistics import Needs, Stats
from tests.support.networks import images, prepared, wide

DATA = images(61, 3, 12, 12)


class Four(InProcess):
    """An engine of four workers, whose values go through a storage."""

    workers = 4

    def __init__(self, folder: Path, *, shares_disk: bool = True) -> None:
        self.shelf, self.shares_disk = Shelf.on(Storage(str(folder))), shares_disk


def same(one: Stats, other: Stats) -> None:
    """Require equal counts and extremes, and sums that differ by rounding."""
    assert one.histograms.keys() == other.histograms.keys()
    for name, first in one.histograms.items():
        second = other.histograms[name]
        np.testing.assert_array_equal(first.counts, second.counts)
        np.testing.assert_array_equal(first.edges, second.edges)
        assert (first.count, first.zeros, first.min, first.max) == (second.count, second.zeros, second.min, second.max)
        assert first.mean_abs == pytest.approx(second.mean_abs, rel=1e-12)
    for key in ("channels", "tensors"):
        pairs = [(each, getattr(other, key)[name]) for name, each in getattr(one, key).items()]
        for first, second in pairs:
            assert first.count == second.count
            np.testing.assert_array_equal(first.absmax, second.absmax)
            np.testing.assert_array_equal(first.zeros, second.zeros)
            np.testing.assert_allclose(first.mean_square, second.mean_square, rtol=1e-12)
            np.testing.assert_allclose(first.mean, second.mean, rtol=1e-9, atol=1e-12)
    assert one.moments.keys() == other.moments.keys()
    for name, moments in one.moments.items():
        expected = other.moments[name]
        assert moments.rows == expected.rows
        largest = np.abs(expected.hessian).max()
        np.testing.assert_allclose(moments.hessian, expected.hessian, rtol=0, atol=4e-6 * largest)
        np.testing.assert_allclose(moments.mean, expected.mean, rtol=1e-5, atol=1e-6 * np.abs(expected.mean).max())


@pytest.mark.parametrize("shares_disk", [True, False])
def test_four_shards_are_as_one_process(tmp_path: Path, shares_disk: bool) -> None:
    pytest.importorskip("fsspec", reason="storage needs convert-onnx[dask]")
    model = prepared(wide())
    layers = list(model.layers())
    tensors = [model.layers()[name].input for name in layers]
    needs = Needs(frozenset(tensors), frozenset(layers), frozenset(layers), frozenset([(tensors[0], 1)]))
    data = load_data(DATA, input_specs(wide()))
    alone = calibrate(model, needs, data, no_progress, seed=3)
    engine = Four(tmp_path, shares_disk=shares_disk)
    spread = calibrate_in_shards(model, needs, data, no_progress, engine, 3, DEFAULT_MEMORY_BUDGET)
    same(spread, alone)
    assert len(list(tmp_path.glob("values-*/*"))) == 1 + 4 + 4 + 3  # network, shards, statistics, a tree of three sums


def test_shards_are_whole_groups() -> None:
    assert [each.start for each in shards_of(61, 8, 4)] == [0, 16, 32, 48]
    assert [each.start for each in shards_of(20, 8, 8)] == [0, 8, 16]
    assert [each.start for each in shards_of(5, 8, 4)] == [0]
    for count in (1, 2, 3, 5, 7):
        starts = [each.start for each in shards_of(100, 8, count)]
        assert len(set(starts)) == count
        assert all(start % 8 == 0 for start in starts)


def test_joined_counts_are_those_of_all_values() -> None:
    draw = np.random.default_rng(0)
    first, second = draw.standard_normal(1000) * 100, draw.standard_normal(500) + 3
    whole, one, other = Histogram(), Histogram(), Histogram()
    whole.update(np.concatenate([first, second]))
    one.update(first)
    other.update(second)
    for joined in (Histogram.joined(one, other), Histogram.joined(other, one)):
        np.testing.assert_array_equal(joined.counts, whole.counts)
        np.testing.assert_array_equal(joined.edges, whole.edges)
    np.testing.assert_array_equal(Histogram.joined(one, Histogram()).counts, one.counts)
    with pytest.raises(ValueError, match="2048 and 16 bins cannot be joined"):
        Histogram.joined(one, Histogram(16))
    with pytest.raises(ValueError, match="2 and 3 channels cannot be joined"):
        ChannelStatistics.joined(ChannelStatistics(2), ChannelStatistics(3))


def test_a_name_of_one_side_stays() -> None:
    values = Histogram()
    values.update(np.arange(4.0))
    assert Stats.joined(Stats({"a": values}), Stats()).histograms == {"a": values}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of dask's own threads and sockets when a cluster closes
def test_a_killed_worker_changes_nothing() -> None:
    pytest.importorskip("distributed", reason="workers need convert-onnx[dask]")
    import psutil

    killed: list[int] = []

    def kill(what: str, done: int, total: int) -> None:
        if what == "calibrating" and done < total and not killed:
            workers = [
                each for each in psutil.Process().children(recursive=True) if "spawn_main" in str(each.cmdline())
            ]
            killed.append(workers[-1].pid)
            os.kill(killed[0], signal.SIGKILL)

    alone = convert(wide(), DATA, recipe="int8", settings=Settings(limit=48))
    spread = convert(wide(), DATA, recipe="int8", settings=Settings(limit=48), workers=Workers(2), progress=kill)
    assert killed
    assert spread.model.SerializeToString() == alone.model.SerializeToString()


@pytest.mark.parametrize(
    ("recipe", "given"), [("fp16", {"count": 2}), ("int8-weight-only", {"scheduler": "tcp://a:1", "storage": "x"})]
)
def test_workers_without_statistics_to_measure_are_refused(recipe: str, given: dict[str, Any]) -> None:
    pytest.importorskip("distributed", reason="workers need convert-onnx[dask]")
    workers = Workers(**given)
    with pytest.raises(
        UsageError, match=f"^`(workers=2|scheduler=tcp://a:1)` has no effect: recipe '{recipe}' measures"
    ):
        convert(wide(), recipe=recipe, workers=workers)
