"""Calibration: run the float graph and accumulate statistics of what the layers read. No activation is stored."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.linalg import blas

from converter.calibration.sampled_histogram import SampledHistogram
from converter.data.dataset import Batch, Dataset, Part
from converter.qdq.floats import float_model
from converter.runtime.batch_size import DEFAULT_MEMORY_BUDGET, batch_size
from converter.runtime.session import Progress, open_session
from passes.errors import DataError
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.numerics.channels import ChannelStatistics
from passes.numerics.moments import MomentsAccumulator
from passes.statistics import Needs, Stats

__all__ = ["Shard", "calibrate", "check_finite", "group_size", "positions_per_image"]

_BATCH = 8
_COPIES = 4  # copies of the largest tensor that one step makes at most
_ROWS_PER_INPUT, _FEWEST_ROWS, _MOST_ROWS = 256, 4096, 32768
_MOST_VALUES, _LEAST_ROWS_PER_INPUT = 1 << 25, 8  # rows x inputs, so that a wide layer does not take minutes


@dataclass(frozen=True)
class Shard:
    """Where some samples are among all.

    Attributes:
        start: Index of the first of them. It is the first of a group, see `group_size`.
        total: Number of all samples.
    """

    start: int
    total: int


def group_size(data: Dataset) -> int:
    """Return how many samples draw their random positions together."""
    return data.static_batch or _BATCH


def calibrate(
    model: Model,
    needs: Needs,
    data: Dataset,
    progress: Progress,
    *,
    seed: int = 0,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    shard: Shard | None = None,
) -> Stats:
    """Measure the statistics that a pass needs, over all images.

    Args:
        model: The model. Its float graph runs.
        needs: The statistics to measure.
        data: Calibration data.
        progress: Called after every batch.
        seed: Random seed of the output positions that are sampled from each image.
        memory_budget: Bytes of activations in memory. It limits the samples that run together.
        shard: Where the data are among all. None: they are all.

    Raises:
        DataError: An activation is NaN or Inf. The message names the tensor.
    """
    layers = model.layers()
    inputs = {layers[name].input for name in needs.channels | needs.moments}
    tensor_names = sorted(needs.histograms | inputs | {name for name, _ in needs.tensors})
    shard = shard or Shard(0, len(data))
    histograms = {name: SampledHistogram(shard.total) for name in sorted(needs.histograms)}
    channels: dict[str, ChannelStatistics] = {}
    others: dict[str, ChannelStatistics] = {}
    moments: dict[str, MomentsAccumulator] = {}
    proto = float_model(model.graph)
    fed = {value.name for value in proto.graph.input}
    outputs = [name for name in tensor_names if name not in fed]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in outputs)
    session = open_session(proto) if outputs else None
    del proto  # the session has its own copy of the weights

    def run(batch: Batch) -> dict[str, NDArray[Any]]:
        produced = session.run(outputs, batch.feeds) if session else []
        return {**batch.feeds, **dict(zip(outputs, produced, strict=True))}

    size = batch_size(data, _BATCH, lambda sample: _bytes(run(sample)), memory_budget // 2)
    group, done = group_size(data), 0
    for batch in data.batches(size):
        part = replace(batch.part, start=batch.part.start + shard.start)
        tensors = {name: batch.real(values) for name, values in run(batch).items()}
        for name, histogram in histograms.items():
            check_finite(name, tensors[name])
            histogram.update(tensors[name], part, group)
        for name in sorted(needs.channels):
            values = tensors[layers[name].input]
            check_finite(layers[name].input, values)
            _add_to_channels(channels, name, values, 1 if layers[name].kernel else values.ndim - 1)
        for name, axis in sorted(needs.tensors):
            check_finite(name, tensors[name])
            _add_to_channels(others, name, tensors[name], axis)
        for name in sorted(needs.moments):
            _add_to_moments(moments, layers[name], tensors, shard.total, seed, part, group)
        done += batch.count
        progress("calibrating", done, len(data))
    return Stats(
        {name: sampled.histogram() for name, sampled in histograms.items()},
        channels,
        {name: value.moments() for name, value in moments.items()},
        others,
    )


def _bytes(tensors: Mapping[str, NDArray[Any]]) -> int:
    """Bytes that a sample takes: all tensors that are measured, and room for the copies that the largest one needs."""
    sizes = [values.nbytes for values in tensors.values()]
    return sum(sizes) + _COPIES * max(sizes, default=0)


def positions_per_image(k: int, images: int) -> int:
    """Output positions to sample from each image, so that a layer with k inputs gets enough rows for its Hessian."""
    rows = min(max(_ROWS_PER_INPUT * k, _FEWEST_ROWS), _MOST_ROWS, _MOST_VALUES // k)
    return max(1, -(-max(rows, _LEAST_ROWS_PER_INPUT * k) // max(images, 1)))


def check_finite(name: str, values: NDArray[np.generic]) -> None:
    """Refuse NaN and Inf.

    Raises:
        DataError: A value is NaN or Inf. The message names the tensor.
    """
    if not values.size or values.dtype.kind != "f":
        return
    with np.errstate(invalid="ignore", over="ignore"):
        # One fast pass; a sum of finite values may overflow. BLAS counts in 32 bits.
        fast = values.dtype == np.float32 and values.size < 2**31
        total = blas.sasum(values.reshape(-1)) if fast else values.sum()
        if np.isfinite(total):
            return
    missing = bool(np.isnan(values).any())
    if missing or np.isinf(values).any():
        kind = "NaN" if missing else "Inf"
        raise DataError(f"tensor {name!r} holds {kind} on the calibration data; check the model's weights and the data")


def _add_to_channels(channels: dict[str, ChannelStatistics], name: str, values: NDArray[np.float32], axis: int) -> None:
    rows = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
    if name not in channels:
        channels[name] = ChannelStatistics(rows.shape[1])
    channels[name].update(rows)


def _add_to_moments(
    moments: dict[str, MomentsAccumulator],
    layer: Linear,
    tensors: Mapping[str, NDArray[np.float32]],
    images: int,
    seed: int,
    part: Part,
    group: int,
) -> None:
    values = tensors[layer.input]
    check_finite(layer.input, values)
    groups, _, k = layer.matrix_shape
    if layer.name not in moments:
        moments[layer.name] = MomentsAccumulator(groups, k, cross=False)
    positions, (index, skip) = positions_per_image(k, images), part.place(group)
    start = index if part.whole else index * group
    moments[layer.name].update(layer.rows(values, positions=positions, seed=(seed, start), skip=skip))
