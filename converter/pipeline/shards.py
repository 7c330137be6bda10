"""Calibration statistics over shards of the samples: each worker measures some, and a tree of sums joins them.

Every value that is kept is a sum, a count or an extreme. The random positions of a sample depend on its place among all
samples. So the result is that of one process: counts are equal, and sums are but for the rounding of floats.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from converter.calibration.statistics import Shard, calibrate, group_size
from converter.data.dataset import Dataset
from converter.engine.engine import Engine
from converter.engine.shelf import Item, Shelf
from converter.model_io.sizes import fits_one_file
from converter.qdq.floats import float_model
from converter.runtime.session import Progress, no_progress
from passes.errors import QuantizationError
from passes.ir.model import Model
from passes.ir.onnx_graph import import_graph
from passes.ir.rules import Rules
from passes.statistics import Needs, Stats

__all__ = ["calibrate_in_shards"]


@dataclass(frozen=True)
class _Network:
    """What every shard needs."""

    model: bytes
    rules: Rules
    needs: Needs
    seed: int
    memory_budget: int


@dataclass(frozen=True)
class _Measuring:
    """Measure the statistics of one shard."""

    shelf: Shelf
    network: Item
    data: Item
    shard: Shard


@dataclass(frozen=True)
class _Joining:
    """Join the statistics of two sets of samples."""

    shelf: Shelf
    first: Item
    second: Item


def calibrate_in_shards(
    model: Model, needs: Needs, data: Dataset, progress: Progress, engine: Engine, seed: int, memory_budget: int
) -> Stats:
    """Measure statistics as `calibrate` does, on the workers of an engine.

    A model above 2 GB, and samples that run alone, stay in this process.

    Args:
        model, needs, data, progress, seed, memory_budget: As in `calibrate`.
        engine: Where the shards are measured.

    Raises:
        DataError: As in `calibrate`.
        QuantizationError: The workers of a shard died again and again.
    """
    shards = shards_of(len(data), group_size(data), engine.workers)
    proto = float_model(model.graph)
    if len(shards) == 1 or data.alone or not fits_one_file(proto):
        return calibrate(model, needs, data, progress, seed=seed, memory_budget=memory_budget)
    shelf = engine.shelf
    network = shelf.put(_Network(proto.SerializeToString(), model.rules, needs, seed, memory_budget))
    tasks = []
    for place, shard in enumerate(shards):
        stop = shards[place + 1].start if place + 1 < len(shards) else shard.total
        own = data.select(np.arange(shard.start, stop)).for_processes(shares_disk=engine.shares_disk)
        tasks.append(_Measuring(shelf, network, shelf.put(own), shard))
    items: list[Item] = [Item("")] * len(tasks)
    for done, (index, item) in enumerate(engine.results(_measured, tasks, _lost)):
        items[index] = item
        progress("calibrating", done + 1, len(tasks))
    stats: Stats = shelf.get(_summed(items, engine))
    return stats


def shards_of(samples: int, group: int, most: int) -> list[Shard]:
    """Return at most ``most`` shards of whole groups of samples.

    >>> shards_of(20, 8, 2)
    [Shard(start=0, total=20), Shard(start=16, total=20)]
    """
    groups = -(-samples // group)
    count = max(1, min(most, groups))
    return [Shard(-(-groups * place // count) * group, samples) for place in range(count)]


def _summed(items: Sequence[Item], engine: Engine) -> Item:
    """Join neighbours, in order, until one is left."""
    while len(items) > 1:
        pairs = [_Joining(engine.shelf, *items[place : place + 2]) for place in range(0, len(items) - 1, 2)]
        joined = dict(engine.results(_joined, pairs, _lost))
        items = [joined[place] for place in range(len(pairs))] + list(items[2 * len(pairs) :])
    return items[0]


def _measured(task: _Measuring) -> Item:
    network: _Network = task.shelf.kept(task.network)
    model = Model(import_graph(onnx.ModelProto.FromString(network.model)), network.rules)
    data: Dataset = task.shelf.get(task.data)
    stats = calibrate(
        model,
        network.needs,
        data,
        no_progress,
        seed=network.seed,
        memory_budget=network.memory_budget,
        shard=task.shard,
    )
    return task.shelf.put(stats)


def _joined(task: _Joining) -> Item:
    return task.shelf.put(Stats.joined(task.shelf.get(task.first), task.shelf.get(task.second)))


def _lost(_: Any, reason: str) -> Any:
    raise QuantizationError(f"statistics cannot be measured: {reason}; give fewer `workers=`, or more `worker_memory=`")
