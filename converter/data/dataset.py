"""Calibration and evaluation data: .npz files, image folders, Python callables, arrays in memory.

    data = load_data("images/", input_specs(model), preprocess=Preprocess(resize=256, crop=224), limit=512)
    for batch in data.batches(16):
        session.run(None, batch.feeds)[0][: batch.count]

One batch at a time, images are decoded and uint8 arrays converted to floats. Batches of a callable or an iterable are
stored in an unnamed temporary file. So data can be iterated any number of times, and always give the same rows.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.data.annotations import Annotations, annotations_of
from converter.data.inputs import InputSpec, input_specs, static_batch
from converter.data.labels import Classes, check_labels
from converter.data.open_source import source_in_memory, source_of_path
from converter.data.preprocess import METADATA_KEY, Preprocess, stored_preprocess
from converter.data.runs import RunSource
from converter.data.sources import ArraySource, FolderSource, Rows, Source
from converter.display.words import kind_of_samples, samples
from passes.arguments import require_type, whole
from passes.data_facts import DataFacts
from passes.errors import DataError, UsageError

__all__ = [
    "METADATA_KEY",
    "Batch",
    "DataForm",
    "Dataset",
    "InputSpec",
    "Part",
    "Preprocess",
    "input_specs",
    "load_data",
    "spread",
    "stored_preprocess",
]

DataForm = str | Path | NDArray[Any] | tuple[Any, Any] | Mapping[str, Any] | Callable[[], Any] | Iterable[Any]


@dataclass(frozen=True)
class Part:
    """The samples of a data set that one batch holds.

    Attributes:
        count: Number of samples.
        padding: Number of rows after them that only fill up a fixed batch size.
        whole: Whether the batch is one run, which is one sample and has no batch axis.
        start: Index of the first sample in the data set.
    """

    count: int
    padding: int
    whole: bool
    start: int

    def place(self, size: int) -> tuple[int, int]:
        """Return the place of the first sample among groups of ``size`` samples: the group's index, and that in it.

        Random draws are made for each group, so that the same samples get the same draws in batches of any size.
        """
        return (self.start, 0) if self.whole else divmod(self.start, size)

    def real(self, values: NDArray[Any]) -> NDArray[Any]:
        """Drop what a model computed for the rows that only fill up the batch."""
        size = self.count + self.padding
        if not self.padding or not values.ndim or len(values) % size:
            return values
        return values[: len(values) // size * self.count]


@dataclass(frozen=True)
class Batch:
    """Inputs of a model for some rows, or for one whole run.

    Attributes:
        feeds: Model inputs {name: [rows, ...]}. The inputs of a whole run may have any shapes.
        labels: One label for every real row, [count], or None.
        padding: Number of rows at the end that only fill up a fixed batch size.
        whole: Whether the inputs are one run, which is one sample and has no batch axis.
        start: Index of the first row in the data set.
        annotations: Labels of any form by name, for metrics. Arrays [count, ...] or lists.
    """

    feeds: dict[str, NDArray[Any]]
    labels: NDArray[np.int64] | None
    padding: int = 0
    whole: bool = False
    start: int = 0
    annotations: Mapping[str, Any] = field(default_factory=dict)

    @property
    def truth(self) -> dict[str, Any]:
        """All labels by name. Class numbers are `y`."""
        return ({} if self.labels is None else {"y": self.labels}) | dict(self.annotations)

    @property
    def count(self) -> int:
        """Number of samples: of real rows, or 1 for a whole run."""
        return 1 if self.whole else len(next(iter(self.feeds.values()))) - self.padding

    @property
    def part(self) -> Part:
        """The samples of the data set that it holds."""
        return Part(self.count, self.padding, self.whole, self.start)

    def real(self, values: NDArray[Any]) -> NDArray[Any]:
        """See `Part.real`."""
        return self.part.real(values)


class Dataset:
    """Rows for a model's inputs, with or without labels. Immutable. Every iteration gives the same rows."""

    def __init__(
        self,
        name: str,
        rows: Source,
        inputs: Sequence[InputSpec],
        annotations: Annotations = Annotations(),  # noqa: B008  (frozen)
    ) -> None:
        self._rows = rows
        self.annotations = annotations
        self.source = name
        self.inputs = tuple(inputs)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        labels = "" if self.labels is None else " with labels"
        return f"<Dataset of {samples(len(self), self.preprocess)}{labels} from {self.source}>"

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """One label for each row, [len(self)], or None."""
        return self._rows.labels

    @property
    def preprocess(self) -> Preprocess | None:
        """Preprocessing of the images. None if the data are already what the model takes."""
        return self._rows.preprocess if self._rows.images else None

    @property
    def channels(self) -> tuple[int, int] | None:
        """Channels of the images, and channels that the model takes. None if the data are not images."""
        return self._rows.channels

    @property
    def takes_floats(self) -> bool:
        """Whether any of the model's inputs has a float type."""
        return any(np.issubdtype(spec.dtype, np.floating) for spec in self.inputs)

    @property
    def static_batch(self) -> int | None:
        """The fixed batch size of the model's inputs. None if they take any, or share no batch."""
        return static_batch(self.inputs)

    @property
    def alone(self) -> bool:
        """Whether each sample runs on its own: samples differ in shape, or are whole runs."""
        return isinstance(self._rows, RunSource)

    @property
    def whole(self) -> bool:
        """Whether each sample is all that a run takes, because the inputs share no batch."""
        return isinstance(self._rows, RunSource) and self._rows.whole

    @property
    def empty_inputs(self) -> list[str]:
        """Inputs that have no elements in any sample."""
        parts = self._rows.runs if isinstance(self._rows, RunSource) else (self._rows,)
        arrays = [part.arrays for part in parts if isinstance(part, ArraySource)]
        return [spec.name for spec in self.inputs if arrays and not any(each[spec.name].size for each in arrays)]

    def one_at_a_time(self) -> "Dataset":
        """Return the same samples for a model that takes one of them in a run, whatever it declares."""
        inputs = [replace(spec, shape=(1, *spec.shape[1:])) if spec.shape else spec for spec in self.inputs]
        return Dataset(self.source, self._rows, inputs, self.annotations)

    def for_processes(self, *, shares_disk: bool) -> "Dataset":
        """Return the same samples in a form that other processes can read.

        Args:
            shares_disk: Whether they see the files of this process.

        Raises:
            UsageError: Samples run alone.
        """
        rows = self._rows
        if self.alone:
            raise UsageError(f"{self.source}: samples that run alone do not travel; leave `workers=` out")
        if isinstance(rows, FolderSource) and shares_disk:
            return self
        if not isinstance(rows, ArraySource):
            batches = list(self.batches())
            arrays = {
                name: np.concatenate([batch.real(batch.feeds[name]) for batch in batches]) for name in rows.read(0, 1)
            }
            rows = load_data(arrays, self.inputs)._rows
            assert isinstance(rows, ArraySource)  # samples that run alone were refused
            rows = replace(rows, labels=self.labels)  # not as the array "y", which may be an input
        return Dataset(self.source, rows.compact(), self.inputs, self.annotations)

    @property
    def facts(self) -> DataFacts:
        """Facts by which a pass decides whether it can use the data."""
        ranks = tuple(len(spec.shape) for spec in self.inputs)
        return DataFacts(self.source, len(self), self.labels is not None, self.static_batch, ranks, self.alone)

    def batches(self, size: int = 16) -> Iterator[Batch]:
        """Yield all rows in order, in batches.

        The last batch may be shorter. If the model has a fixed batch size, the last batch is padded with copies of its
        last row, and `Batch.count` is the number of real rows. Samples that run alone are batches of one.

        Args:
            size: Rows in a batch. A fixed batch size of the model overrides it.

        Raises:
            DataError: An image cannot be read. The message names the file.
        """
        if size < 1:
            raise ValueError(f"batch size {size} is not positive")
        fixed = self.static_batch
        step = 1 if self.alone else fixed or size
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            feeds = self._rows.read(start, stop)
            padding = fixed - (stop - start) if fixed and not self.whole else 0
            if padding:
                feeds = {name: np.concatenate([rows, np.repeat(rows[-1:], padding, 0)]) for name, rows in feeds.items()}
            labels = None if self.labels is None else self.labels[start:stop]
            yield Batch(feeds, labels, padding, self.whole, start, self.annotations.between(start, stop))

    def first_runs(self) -> tuple[list[dict[str, NDArray[Any]]], str]:
        """Return inputs of two runs of up to two samples, and what the samples are: "images of FOLDER"."""
        feeds = [batch.feeds for _, batch in zip(range(2), self.batches(2), strict=False)]
        return feeds, f"{kind_of_samples(self.preprocess)} of {self.source}"

    def select(self, indices: Sequence[int] | NDArray[Any]) -> "Dataset":
        """The rows at `indices`, in that order.

        Raises:
            DataError: There are no indices.
            IndexError: An index is out of range.
        """
        rows = np.asarray(indices, dtype=np.int64)
        if not len(rows):
            raise DataError(f"{self.source}: no samples left; select at least one")
        if rows.min() < 0 or rows.max() >= len(self):
            raise IndexError(f"rows {rows.min()}..{rows.max()} of a data set of {len(self)}")
        return Dataset(self.source, self._rows.take(rows), self.inputs, self.annotations.take(rows))

    def limit(self, n: int, seed: int = 0) -> "Dataset":
        """`n` rows spread over the whole data set, or the data set itself if it has no more than `n`.

        The data set is cut into n equal parts, and one row is drawn from each. So data sorted by class give every class
        its share, and data that cycle through the classes do not give only one class. Equal seeds give equal rows.
        """
        return self if n >= len(self) else self.select(spread(len(self), n, seed))

    def split(self, n: int, seed: int = 0) -> tuple["Dataset", "Dataset"]:
        """Split into `limit(n, seed)` and all other rows.

        Raises:
            DataError: One of the two parts would be empty.
        """
        if not 0 < n < len(self):
            raise DataError(
                f"{self.source}: {samples(len(self), self.preprocess)} cannot be split into {n} and the rest"
            )
        first = spread(len(self), n, seed)
        return self.select(first), self.select(np.setdiff1d(np.arange(len(self)), first))

    def name(self, row: int) -> str:
        """Name of a row for messages: its file below the folder, or its number in the arrays as they were given."""
        return self._rows.name(row)

    def digest(self) -> str:
        """SHA-256 in hex of the data in use: bytes of arrays or files in order, and labels, before preprocessing."""
        return self._rows.digest()

    def describe(self) -> dict[str, Any]:
        """Source, number of images, whether there are labels, digest and preprocessing. Ready for JSON."""
        return {
            "source": self.source,
            "images": len(self),
            "labels": self.labels is not None,
            "sha256": self.digest(),
            "preprocess": None if self.preprocess is None else self.preprocess.values(),
        }


def load_data(
    spec: DataForm,
    inputs: Sequence[InputSpec],
    *,
    preprocess: Preprocess = Preprocess(),  # noqa: B008  (frozen)
    limit: int | None = None,
    seed: int = 0,
    classes: Classes | None = None,
    annotated: bool = False,
) -> Dataset:
    """Load data and check them against the inputs of a model.

    Args:
        spec: The data. There are five forms:

            - "FILE.npz": array `x`, either uint8 images [n, h, w, c], which are preprocessed, or arrays of the model's
              own shape, which are taken as they are. Floats of another width are rounded to the model's type, and
              integers must fit in it. Integer labels `y` [n] are optional. A model with several inputs needs one array
              per input name. If these share no batch axis, as a state [layers, batch, features] or a scalar, arrays are
              [n, *shape in one run], or the inputs of one run.
            - "FILE.npy": the array `x` alone.
            - "FOLDER": images, searched recursively. Class folders give labels (see `FolderSource`).
            - "FILE.py:CALLABLE" or "FILE.py:CALLABLE(name=literal)": the callable returns batches. A batch is an array,
              (array, labels), or {input name: array}, in which `y` are labels. Such a dictionary may be all that one
              run takes, whatever the shapes are. Batches may differ in size: then each sample runs on its own.
            - In memory: an array, (array, labels), {name: array}, a callable, or an iterable of batches.
        inputs: Inputs of the model.
        preprocess: Preprocessing of uint8 images.
        limit: Number of images to use, see `Dataset.limit`. Batches of a callable or iterable are read only up to this
            number, so they may be endless.
        seed: Random seed of the images that `limit` picks.
        classes: Classes of the model. Labels are checked against them.
        annotated: Whether to keep all other arrays as labels for a metric, see `converter.data.annotations`. Then `y`
            may have any form.

    Returns:
        The data.

    Raises:
        DataError: The data cannot be used. The message quotes the offending value and names the next step.
        UsageError: The specification cannot be read, or preprocessing does not fit the model's input.
    """
    require_type("inputs", inputs, (list, tuple), "converter.input_specs(model)")
    inputs = tuple(inputs)
    if not inputs:
        raise DataError("the model has no inputs to feed; check that its graph inputs are not all initializers")
    limit = None if limit is None else whole("limit", limit)
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit} leaves no samples; use at least 1")
    name = str(spec) if isinstance(spec, str | Path) else "data"
    others: dict[str, Any] = {}
    if isinstance(spec, str | Path):
        rows = source_of_path(name, inputs, preprocess, limit, others if annotated else None)
    else:
        rows = source_in_memory(name, spec, inputs, preprocess, limit, others if annotated else None)
    annotations = annotations_of(name, others, len(rows))
    check_labels(name, rows.labels, classes, rows.files if isinstance(rows, FolderSource) else None)
    if limit is not None and limit < len(rows):
        used = spread(len(rows), limit, seed)
        rows, annotations = rows.take(used), annotations.take(used)
    rows.check()
    if isinstance(rows, ArraySource) and name.endswith((".npz", ".npy")):
        rows = rows.compact()
    return Dataset(name, rows, inputs, annotations)


def spread(total: int, n: int, seed: int) -> Rows:
    """Return `n` of ``total`` indices, one drawn from each of n equal parts. See `Dataset.limit`."""
    if n < 1:
        raise DataError(f"limit {n} leaves no samples; use at least 1")
    edges = np.arange(n + 1, dtype=np.int64) * total // n
    return np.random.default_rng(seed).integers(edges[:-1], edges[1:])
