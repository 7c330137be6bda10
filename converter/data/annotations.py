"""Labels of any name and form: masks, boxes, texts, keypoints. Metrics read them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from passes.errors import DataError

__all__ = ["Annotations", "annotations_of"]


@dataclass(frozen=True)
class Annotations:
    """Labels by name, one entry for each sample.

    Attributes:
        values: Arrays [n, ...] or lists of n entries, by name.
    """

    values: Mapping[str, Sequence[Any] | NDArray[Any]] = field(default_factory=dict)

    def take(self, rows: NDArray[np.int64]) -> "Annotations":
        """Return the labels of these samples, in this order."""
        return Annotations(
            {
                name: each[rows] if isinstance(each, np.ndarray) else [each[row] for row in rows]
                for name, each in self.values.items()
            }
        )

    def between(self, start: int, stop: int) -> dict[str, Any]:
        """Return the labels of some samples in a row."""
        return {name: each[start:stop] for name, each in self.values.items()}


def annotations_of(source: str, arrays: Mapping[str, Any], count: int) -> Annotations:
    """Make labels from arrays or lists.

    An array or list with one entry for each sample is taken as it is. An array of another length is a table [m, c]
    whose first column is the number of the sample, such as boxes (sample, class, x0, y0, x1, y1). Each sample gets its
    rows, without that column.

    Args:
        source: Name of the data in messages.
        arrays: Arrays or lists by name.
        count: Number of samples.

    Raises:
        DataError: An array is neither. The message names it.
    """
    return Annotations(
        {
            name: _by_sample(f"{source}: {name}", each, count, boxes=name == "boxes" and _columns(each) == 6)
            for name, each in arrays.items()
        }
    )


def _by_sample(what: str, given: Any, count: int, *, boxes: bool) -> Sequence[Any] | NDArray[Any]:
    """Divide labels by samples. ``boxes`` is a table also if it has as many rows as there are samples."""
    if isinstance(given, list | tuple) and len(given) == count:
        return list(given)
    table = np.asarray(given) if not isinstance(given, list | tuple) else np.zeros(0)
    if table.ndim and len(table) == count and not (boxes and _is_table(table, count)):
        return table
    if not _is_table(table, count):
        raise DataError(
            f"{what} has shape {list(np.shape(given))}, and there are {count} samples; give one entry for each sample, "
            "or a table whose first column is the number of the sample, from 0"
        )
    rows = table[:, 0].astype(np.int64)
    return [table[rows == sample, 1:] for sample in range(count)]


def _is_table(table: NDArray[Any], count: int) -> bool:
    """Whether an array is a table by samples: the first column has their numbers."""
    if table.ndim != 2 or table.shape[1] < 2 or table.dtype.kind not in "iuf":
        return False
    if not len(table):
        return True
    first = table[:, 0]
    whole = np.isfinite(first).all() and bool((first == np.floor(first)).all())
    return bool(whole and first.min() >= 0 and first.max() < count)


def _columns(given: Any) -> int | None:
    """Return the number of columns of a table."""
    return given.shape[1] if isinstance(given, np.ndarray) and given.ndim == 2 else None
