"""Calibration and evaluation data: .npz files, image folders, Python callables, arrays in memory.

    data = load_data("images/", input_specs(model), preprocess=Preprocess(resize=256, crop=224), limit=512)
    for batch in data.batches(16):
        session.run(None, batch.feeds)[0][: batch.count]

Images are decoded, and uint8 arrays converted to floats, one batch at a time. Batches of a callable or an iterable are
spooled to an unnamed temporary file, so that data can be walked any number of times and always gives the same rows.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.data.batches import array_source, batch_arrays, is_pair, only_input, spool
from converter.data.inputs import InputSpec, input_specs, static_batch
from converter.data.labels import Classes, check_labels
from converter.data.preprocess import METADATA_KEY, Preprocess, stored_preprocess
from converter.data.sources import ArraySource, FolderSource, Rows, Source
from converter.model_io.python_spec import call, functions_of, load_name, parse_spec
from passes.errors import DataError, UsageError

__all__ = [
    "METADATA_KEY",
    "Batch",
    "DataForm",
    "Dataset",
    "InputSpec",
    "Preprocess",
    "input_specs",
    "load_data",
    "stored_preprocess",
]

DataForm = str | Path | NDArray[Any] | tuple[Any, Any] | Mapping[str, Any] | Callable[[], Any] | Iterable[Any]


@dataclass(frozen=True)
class Batch:
    """Model inputs {name: [rows, ...]}, of which the last `padding` rows only fill up a fixed batch size.

    labels    [count], one for every row that counts, or None
    """

    feeds: dict[str, NDArray[Any]]
    labels: NDArray[np.int64] | None
    padding: int = 0

    @property
    def count(self) -> int:
        """Rows that count; whatever a model gives for the rows after them is to be dropped."""
        return len(next(iter(self.feeds.values()))) - self.padding


class Dataset:
    """Rows for a model's inputs, with labels or without. Immutable; every walk over it gives the same rows."""

    def __init__(self, name: str, rows: Source, inputs: Sequence[InputSpec]) -> None:
        self._rows = rows
        self.source = name
        self.inputs = tuple(inputs)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        labels = "" if self.labels is None else " with labels"
        return f"<Dataset of {len(self):,} images{labels} from {self.source}>"

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """One label a row, [len(self)], or None."""
        return self._rows.labels

    @property
    def preprocess(self) -> Preprocess | None:
        """How images become tensors; None where the data are what the model takes."""
        return self._rows.preprocess if self._rows.images else None

    @property
    def channels(self) -> tuple[int, int] | None:
        """Channels of the images as they are, and as the model takes them; None where the data are no images."""
        return self._rows.channels

    @property
    def takes_floats(self) -> bool:
        """Whether any of the model's inputs is of a float type."""
        return any(np.issubdtype(spec.dtype, np.floating) for spec in self.inputs)

    @property
    def static_batch(self) -> int | None:
        """The batch size that the model's inputs are fixed to, None where they take any."""
        return static_batch(self.inputs)

    def batches(self, size: int = 16) -> Iterator[Batch]:
        """All rows in order, `size` at a time (or the model's own batch size where that is fixed).

        The last batch is as short as it comes out; for a fixed batch size it is filled by repeating its last row, and
        `Batch.count` tells how many rows are real. Raises DataError, naming the file, for an image that cannot be read.
        """
        if size < 1:
            raise ValueError(f"batch size {size} is not positive")
        fixed = self.static_batch
        size = fixed or size
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            feeds = self._rows.read(start, stop)
            padding = size - (stop - start) if fixed else 0
            if padding:
                feeds = {name: np.concatenate([rows, np.repeat(rows[-1:], padding, 0)]) for name, rows in feeds.items()}
            yield Batch(feeds, None if self.labels is None else self.labels[start:stop], padding)

    def select(self, indices: Sequence[int] | NDArray[Any]) -> "Dataset":
        """The rows at `indices`, in that order. Raises DataError for none at all, IndexError for one out of range."""
        rows = np.asarray(indices, dtype=np.int64)
        if not len(rows):
            raise DataError(f"{self.source}: no images left; select at least one")
        if rows.min() < 0 or rows.max() >= len(self):
            raise IndexError(f"rows {rows.min()}..{rows.max()} of a data set of {len(self)}")
        return Dataset(self.source, self._rows.take(rows), self.inputs)

    def limit(self, n: int, seed: int = 0) -> "Dataset":
        """`n` rows spread over the whole set, or the set itself when it has no more than that.

        The set is cut into n equal strides and one row drawn from each: data sorted by class gives every class its
        share, and data that cycles through its classes does not give one class only. The same seed, the same rows.
        """
        return self if n >= len(self) else self.select(_spread(len(self), n, seed))

    def split(self, n: int, seed: int = 0) -> tuple["Dataset", "Dataset"]:
        """(`limit(n, seed)`, all the other rows). Raises DataError when nothing would be left for one of them."""
        if not 0 < n < len(self):
            raise DataError(f"{self.source}: {len(self)} images cannot be split into {n} and the rest")
        first = _spread(len(self), n, seed)
        return self.select(first), self.select(np.setdiff1d(np.arange(len(self)), first))

    def name(self, row: int) -> str:
        """What a person finds a row by: its file below the folder, or its number in the arrays as they were given."""
        return self._rows.name(row)

    def digest(self) -> str:
        """SHA-256, in hex, of the data in use: raw bytes of arrays or files in order, and labels. Not preprocessing."""
        return self._rows.digest()

    def describe(self) -> dict[str, Any]:
        """Source, number of images, whether there are labels, digest and preprocessing, ready for JSON."""
        return {
            "source": self.source,
            "images": len(self),
            "labels": self.labels is not None,
            "sha256": self.digest(),
            "preprocess": None if self.preprocess is None else asdict(self.preprocess),
        }


def load_data(
    spec: DataForm,
    inputs: Sequence[InputSpec],
    *,
    preprocess: Preprocess = Preprocess(),  # noqa: B008  (frozen)
    limit: int | None = None,
    seed: int = 0,
    classes: Classes | None = None,
) -> Dataset:
    """The data that `spec` names, checked against what the model's `inputs` take.

    spec    "FILE.npz"            `x`: uint8 [n, h, w, c], preprocessed; or of the model's own dtype and shape, taken as
                                  it is. `y`: integer labels [n], optional. One array per input name for several inputs
            "FOLDER"              images, recursively; class folders give labels (see FolderSource)
            "FILE.py:CALLABLE"    or FILE.py:CALLABLE(name=literal), gives batches: array, (array, labels), or
                                  {input name: array} (a `y` in it: labels)
            in memory             an array, (array, labels), {name: array}, a callable, or an iterable of batches
    limit   number of images to use, see `Dataset.limit`; batches of a callable or iterable are read up to it and no
            further, so that it may be endless
    classes what the labels are checked against

    Raises DataError, in one line with the offending value and the next step, for whatever cannot be used.
    """
    inputs = tuple(inputs)
    if not inputs:
        raise DataError("the model has no inputs to feed; check that its graph inputs are not all initializers")
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit} leaves no images; use at least 1")
    if isinstance(spec, str | Path):
        name, rows = str(spec), _from_path(str(spec), inputs, preprocess, limit)
    else:
        name, rows = "data", _from_memory("data", spec, inputs, preprocess, limit)
    check_labels(name, rows.labels, classes, rows.files if isinstance(rows, FolderSource) else None)
    if limit is not None and limit < len(rows):
        rows = rows.take(_spread(len(rows), limit, seed))
    rows.check()
    if isinstance(rows, ArraySource) and name.endswith(".npz"):
        rows = rows.compact()
    return Dataset(name, rows, inputs)


def _spread(total: int, n: int, seed: int) -> Rows:
    if n < 1:
        raise DataError(f"limit {n} leaves no images; use at least 1")
    edges = np.arange(n + 1, dtype=np.int64) * total // n
    return np.random.default_rng(seed).integers(edges[:-1], edges[1:])


def _from_path(name: str, inputs: tuple[InputSpec, ...], preprocess: Preprocess, limit: int | None) -> Source:
    path = Path(name)
    if ".py:" in name:
        spec = parse_spec(name, "FILE.py:CALLABLE or FILE.py:CALLABLE(name=value)")
        with load_name(spec.path, spec.name, DataError) as found:
            if spec.arguments and not callable(found):
                raise UsageError(f"{spec} is {type(found).__name__}, which takes no arguments")
            return _from_memory(name, found, inputs, preprocess, limit, spec.arguments)
    if not path.exists():
        raise DataError(f"{name}: no such file or folder; give an .npz file, a folder of images or FILE.py:CALLABLE")
    if path.is_dir():
        return FolderSource.scan(path, only_input(inputs, f"{name}: a folder of images"), preprocess)
    if path.suffix == ".npz":
        return array_source(name, _read_npz(path, inputs), inputs, preprocess)
    if path.suffix == ".py":
        named = ", ".join(f"{name}:{function}" for function in functions_of(path)) or f"{name}:CALLABLE"
        raise UsageError(f"{name}: data are what a callable in it yields; name the callable: {named}")
    saved = "np.savez(..., x=array) makes an .npz file"
    hint = saved if path.suffix == ".npy" else "use an .npz file or a folder of images"
    raise DataError(f"{name}: data cannot be read from a '{path.suffix}' file; {hint}")


def _read_npz(path: Path, inputs: tuple[InputSpec, ...]) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            wanted = {"x", "y", *(spec.name for spec in inputs)}
            arrays = {key: file[key] for key in file.files if key in wanted}
            present = ", ".join(file.files) or "nothing"
    except Exception as error:  # a damaged zip archive raises many types
        raise DataError(f"{path}: cannot be read as .npz ({type(error).__name__}: {error}); write it again") from error
    if len(inputs) == 1 and "x" not in arrays and inputs[0].name not in arrays:
        raise DataError(f"{path}: has no array x (it holds {present}); save the images as np.savez(..., x=images)")
    return arrays


def _from_memory(
    name: str,
    data: Any,
    inputs: tuple[InputSpec, ...],
    preprocess: Preprocess,
    limit: int | None,
    arguments: Mapping[str, Any] = MappingProxyType({}),
) -> Source:
    if callable(data) and not hasattr(data, "__array__"):
        data = call(data, arguments, name, DataError)
    if isinstance(data, np.ndarray | Mapping) or is_pair(data):
        return array_source(name, batch_arrays(name, data, inputs), inputs, preprocess)
    if not isinstance(data, Iterable):
        raise DataError(f"{name}: gives {type(data).__name__}, not batches; yield arrays or (array, labels)")
    return spool(name, data, inputs, preprocess, limit)
