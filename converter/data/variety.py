"""Signs that samples are unlike those that a model will meet: constant ones, near copies, few classes.

Ranges and second moments of activations come from the samples that calibrate. A thousand copies of one photograph say
no more than the photograph.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from converter.data.dataset import Dataset
from converter.data.labels import Classes
from converter.display.words import samples
from passes.numerics.grid import Floats

__all__ = ["little_variety"]

_LOOKED_AT = 256  # samples
_FEWEST = 8  # samples about which anything can be said
_PARTS = 64  # means of parts of a sample, by which it is compared with others
_NEAR = 0.05  # distance of near copies, relative to the median distance of two samples
_CONSTANT = 0.1  # share of constant samples that is worth a word
_PER_CLASS = 3  # samples for each class, from which on absent classes are no chance


def little_variety(data: Dataset, classes: Classes | None) -> Iterator[str]:
    """Yield a sentence for each sign that samples are unlike those that a model will meet.

    Args:
        data: Samples that calibrate. At most 256 of them are looked at.
        classes: Classes of the model, if they are known.
    """
    labels = data.labels
    if labels is not None and classes is not None and len(labels) >= _PER_CLASS * classes.count:
        present = len(np.unique(labels))
        if 2 * present <= classes.count:
            yield (
                f"{data.source}: the samples that calibrate are of {present} of {classes.count} classes; give some of "
                "each class"
            )
    seen = data.limit(_LOOKED_AT, 0)
    if len(seen) < _FEWEST:
        return
    outlines, constant = _outlines(seen)
    if constant > _CONSTANT * len(seen):
        yield (
            f"{data.source}: {constant} of {samples(len(seen), data.preprocess)} are constant; give samples such as "
            "the model will meet"
        )
    elif outlines is not None and (copies := _near_copies(outlines)) > len(seen) // 2:
        yield (
            f"{data.source}: {copies} of {samples(len(seen), data.preprocess)} are nearly copies of others, so they "
            "calibrate like few; give others"
        )


def _outlines(data: Dataset) -> tuple[Floats | None, int]:
    """Return means of parts of each sample ``[n, parts]``, and the number of constant samples.

    Only the first float input with enough values counts. None: there is no such input, or sizes differ.
    """
    rows: list[NDArray[np.float32]] = []
    constant = data_size = 0
    for batch in data.batches(1):
        values = next((each for each in batch.feeds.values() if each.dtype.kind == "f" and each.size >= _PARTS), None)
        if values is None or (rows and values.size != data_size):
            return None, 0
        data_size = values.size
        flat = np.asarray(values, np.float32).reshape(-1)
        constant += bool(flat.min() == flat.max())
        rows.append(np.array([part.mean() for part in np.array_split(flat, _PARTS)], np.float32))
    return np.stack(rows), constant


def _near_copies(outlines: Floats) -> int:
    """Return the number of samples that are near an earlier one.

    The measure is the median distance of samples that differ.
    """
    squares = np.square(outlines[:, None] - outlines[None]).sum(axis=2, dtype=np.float64)
    apart = squares[squares > 0]
    near = squares <= (_NEAR**2 * np.median(apart) if apart.size else 0.0)
    return int(np.triu(near, 1).any(axis=0).sum())
