"""Calibration: run the float graph and accumulate statistics of what the layers read. No activation is stored."""

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.data.dataset import Dataset
from converter.qdq.floats import float_model
from converter.runtime.session import Progress, open_session
from passes.errors import DataError
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.numerics.channels import ChannelStatistics
from passes.numerics.histogram import Histogram
from passes.numerics.moments import MomentsAccumulator
from passes.statistics import Needs, Stats

__all__ = ["calibrate", "check_finite", "positions_per_image"]

_BATCH = 8
_HISTOGRAM_SAMPLES = 1 << 17  # values per image of a tensor that enter its histogram; its extremes are always exact
_ROWS_PER_INPUT, _FEWEST_ROWS, _MOST_ROWS = 256, 4096, 32768
_MOST_VALUES, _LEAST_ROWS_PER_INPUT = 1 << 25, 8  # rows x inputs, so that a wide layer does not take minutes


def calibrate(model: Model, needs: Needs, data: Dataset, progress: Progress, *, seed: int = 0) -> Stats:
    """Measure the statistics that a pass needs, over all images.

    Args:
        model: The model. Its float graph runs.
        needs: The statistics to measure.
        data: Calibration data.
        progress: Called after every batch.
        seed: Random seed of the output positions that are sampled from each image.

    Raises:
        DataError: An activation is NaN or Inf. The message names the tensor.
    """
    layers = model.layers()
    inputs = {layers[name].input for name in needs.channels | needs.moments}
    tensor_names = sorted(needs.histograms | inputs | {name for name, _ in needs.tensors})
    histograms = {name: Histogram() for name in sorted(needs.histograms)}
    channels: dict[str, ChannelStatistics] = {}
    others: dict[str, ChannelStatistics] = {}
    moments: dict[str, MomentsAccumulator] = {}
    proto = float_model(model.graph)
    fed = {value.name for value in proto.graph.input}
    outputs = [name for name in tensor_names if name not in fed]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in outputs)
    session = open_session(proto) if outputs else None
    done = 0
    for batch in data.batches(_BATCH):
        produced = session.run(outputs, batch.feeds) if session else []
        tensors = {**batch.feeds, **dict(zip(outputs, produced, strict=True))}
        for name, histogram in histograms.items():
            _add_to_histogram(histogram, name, tensors[name][: batch.count])
        for name in sorted(needs.channels):
            values = tensors[layers[name].input][: batch.count]
            check_finite(layers[name].input, values)
            _add_to_channels(channels, name, values, 1 if layers[name].kernel else values.ndim - 1)
        for name, axis in sorted(needs.tensors):
            check_finite(name, tensors[name][: batch.count])
            _add_to_channels(others, name, tensors[name][: batch.count], axis)
        for name in sorted(needs.moments):
            _add_to_moments(moments, layers[name], tensors, batch.count, len(data), (seed, done))
        done += batch.count
        progress("calibrating", done, len(data))
    return Stats(histograms, channels, {name: value.moments() for name, value in moments.items()}, others)


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
    with np.errstate(invalid="ignore"):  # inf - inf
        total = values.sum(dtype=np.float64)
    if not np.isfinite(total):
        kind = "NaN" if np.isnan(values).any() else "Inf"
        raise DataError(
            f"tensor {name!r} holds {kind} on the calibration data; check the model's weights and the images"
        )


def _add_to_histogram(histogram: Histogram, name: str, values: NDArray[np.generic]) -> None:
    check_finite(name, values)
    flat = values.reshape(-1)
    limit = _HISTOGRAM_SAMPLES * max(len(values), 1)
    if flat.size <= limit:
        histogram.update(flat)
        return
    step = -(-flat.size // limit) | 1  # odd, so that it does not follow one column of an image of even width
    histogram.update(np.append(flat[::step], [flat.min(), flat.max()]))


def _add_to_channels(channels: dict[str, ChannelStatistics], name: str, values: NDArray[np.float32], axis: int) -> None:
    rows = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
    if name not in channels:
        channels[name] = ChannelStatistics(rows.shape[1])
    channels[name].update(rows)


def _add_to_moments(
    moments: dict[str, MomentsAccumulator],
    layer: Linear,
    tensors: Mapping[str, NDArray[np.float32]],
    count: int,
    images: int,
    seed: tuple[int, int],
) -> None:
    values = tensors[layer.input][:count]
    check_finite(layer.input, values)
    groups, _, k = layer.matrix_shape
    if layer.name not in moments:
        moments[layer.name] = MomentsAccumulator(groups, k, cross=False)
    moments[layer.name].update(layer.rows(values, positions=positions_per_image(k, images), seed=seed))
