"""Training images in random order, as torch tensors. The next batch is read while the present one is learned from."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from converter.data.dataset import Dataset

__all__ = ["ImageBatch", "augmented", "epoch_batches", "in_order"]


@dataclass(frozen=True)
class ImageBatch:
    """Some images.

    Attributes:
        inputs: Inputs ``[n, ...]`` by name.
        labels: Class of every image ``[n]``, or None.
        truth: All labels by name, for a metric.
    """

    inputs: Mapping[str, Tensor]
    labels: Tensor | None
    truth: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


def epoch_batches(
    data: Dataset, images: NDArray[np.intp], size: int, seed: Sequence[int], device: torch.device
) -> Iterator[ImageBatch]:
    """Yield each image once, in random order. A last batch that would be smaller than ``size`` is left out.

    Args:
        data: All images.
        images: Indices of the images to use.
        size: Images in a batch. If there are fewer images, one batch has all of them.
        seed: Random seed of the order.
        device: Device of the tensors.
    """
    order = np.random.default_rng(seed).permutation(images)
    size = min(size, len(order))
    yield from _read(data, [order[start : start + size] for start in range(0, len(order) - size + 1, size)], device)


def in_order(data: Dataset, images: NDArray[np.intp], size: int, device: torch.device) -> Iterator[ImageBatch]:
    """Yield all of the images, in the given order."""
    yield from _read(data, [images[start : start + size] for start in range(0, len(images), size)], device)


def augmented(inputs: Mapping[str, Tensor], flip: bool, shift: int, draws: np.random.Generator) -> dict[str, Tensor]:
    """Mirror and shift images ``[n, c, h, w]`` at random. Edge pixels are repeated outwards. Other inputs stay the
    same.

    Args:
        inputs: Tensors by name. All images of one sample are changed alike.
        flip: Whether to mirror half of the images left to right.
        shift: Largest shift in each direction, in pixels.
        draws: Random generator.
    """
    count = len(next(iter(inputs.values())))
    mirrored = draws.random(count) < 0.5 if flip else np.zeros(count, bool)
    offsets = draws.integers(0, 2 * shift + 1, (count, 2)) if shift else np.zeros((count, 2), np.int64)
    result = {}
    for name, value in inputs.items():
        if value.ndim != 4:
            result[name] = value
            continue
        height, width = value.shape[2:]
        wide = F.pad(value, (shift,) * 4, mode="replicate") if shift else value
        pieces = [
            image[:, y : y + height, x : x + width].flip(2) if turned else image[:, y : y + height, x : x + width]
            for image, (y, x), turned in zip(wide, offsets.tolist(), mirrored.tolist(), strict=True)
        ]
        result[name] = torch.stack(pieces).contiguous(memory_format=torch.channels_last)
    return result


def _read(data: Dataset, parts: Sequence[NDArray[np.intp]], device: torch.device) -> Iterator[ImageBatch]:
    with ThreadPoolExecutor(max_workers=1) as ahead:
        waiting = ahead.submit(_load, data, parts[0]) if parts else None
        for following in [*parts[1:], None]:
            if waiting is None:
                return
            images = waiting.result()
            waiting = None if following is None else ahead.submit(_load, data, following)
            yield ImageBatch(
                {name: value.to(device) for name, value in images.inputs.items()},
                None if images.labels is None else images.labels.to(device),
                images.truth,
            )


def _load(data: Dataset, rows: NDArray[np.intp]) -> ImageBatch:
    chosen = next(data.select(rows).batches(len(rows)))
    inputs = {}
    for name, values in chosen.feeds.items():
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        inputs[name] = tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
    labels = None if chosen.labels is None else torch.from_numpy(np.array(chosen.labels))
    return ImageBatch(inputs, labels, chosen.truth)
