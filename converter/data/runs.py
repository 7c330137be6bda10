"""A source whose samples run one at a time: inputs of any shapes, or images of different sizes."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.data.finite import is_usable
from converter.data.inputs import InputSpec
from converter.data.preprocess import Preprocess
from converter.data.sources import ArraySource, Rows
from passes.errors import DataError

__all__ = ["RunSource", "split_runs"]


@dataclass(frozen=True)
class RunSource:
    """Samples of which each is the input of one run.

    Attributes:
        source: Name of the data in messages.
        runs: Inputs of each run.
        labels: One label for each run in use, or None.
        whole: Whether the arrays are all that a run takes. If not, they are one row, and the inputs share a batch.
        rows: Indices of the runs in use.
    """

    source: str
    runs: tuple[ArraySource, ...]
    labels: NDArray[np.int64] | None
    whole: bool
    rows: Rows

    @property
    def preprocess(self) -> Preprocess:
        return self.runs[0].preprocess

    @property
    def images(self) -> bool:
        return self.runs[0].images

    @property
    def channels(self) -> tuple[int, int] | None:
        return self.runs[0].channels

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Rows) -> "RunSource":
        return replace(self, rows=self.rows[rows], labels=None if self.labels is None else self.labels[rows])

    def name(self, row: int) -> str:
        return str(int(self.rows[row]))

    def read(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        assert stop == start + 1  # they run one at a time
        run: ArraySource = self.runs[self.rows[start]]
        return run.everything()

    def check(self) -> None:
        for row in self.rows:
            run = self.runs[row]
            for name, array in run.arrays.items():
                if np.issubdtype(array.dtype, np.inexact) and not is_usable(array, alone=len(run.arrays) == 1):
                    raise DataError(f"{self.source}: {run.names[name]} of run {row} holds NaN or Inf; repair it")

    def digest(self) -> str:
        total = hashlib.sha256()
        for row in self.rows:
            for name, array in sorted(self.runs[row].arrays.items()):
                total.update(f"{name} {array.dtype.str} {array.shape}".encode())
                total.update(np.ascontiguousarray(array).tobytes())
        if self.labels is not None:
            total.update(self.labels.tobytes())
        return total.hexdigest()


def split_runs(
    name: str, arrays: Mapping[str, NDArray[Any]], specs: Sequence[InputSpec]
) -> list[dict[str, NDArray[Any]]]:
    """Return the inputs of each run, for a model whose inputs share no batch.

    Args:
        name: Name of the data in messages.
        arrays: Either the inputs of one run, or one row for each run: [runs, *shape of the input]. Of an input whose
            own axis 0 has size 1 in a run, a row may be the axis 0.
        specs: Inputs of the model.

    Raises:
        DataError: The arrays are neither.
    """
    if all(spec.fits_run(arrays[spec.name]) for spec in specs):
        return [dict(arrays)]
    counts = {len(arrays[spec.name]) if arrays[spec.name].ndim else 0 for spec in specs}
    if len(counts) == 1 and all(_is_rows(arrays[spec.name], spec) for spec in specs):
        return list(_rows(arrays, specs, counts.pop()))
    shapes = ", ".join(f"{spec.name} {list(arrays[spec.name].shape)}" for spec in specs)
    raise DataError(
        f"{name}: {shapes} are not the inputs of one run, nor [runs, *inputs of one run]. The model's inputs share no "
        f"batch axis: {', '.join(map(str, specs))}; yield a dictionary of all inputs for each run from a callable"
    )


def _is_rows(array: NDArray[Any], spec: InputSpec) -> bool:
    if array.ndim == len(spec.shape) + 1:
        return True
    return array.ndim == len(spec.shape) and array.ndim > 0 and spec.shape[0] in {None, 1}


def _rows(
    arrays: Mapping[str, NDArray[Any]], specs: Sequence[InputSpec], count: int
) -> Iterator[dict[str, NDArray[Any]]]:
    for row in range(count):
        yield {
            spec.name: np.asarray(
                arrays[spec.name][row] if arrays[spec.name].ndim > len(spec.shape) else arrays[spec.name][row : row + 1]
            )
            for spec in specs
        }
