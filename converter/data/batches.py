"""Data sources from batches and arrays that a caller gives.

Batches of a callable or an iterable may be large, random, or available only once. They are written to unnamed temporary
files as they arrive, and mapped from there. So memory use stays flat, and every later iteration gives the same rows.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.data.inputs import InputSpec, sequence_first, share_batch
from converter.data.preprocess import Preprocess
from converter.data.runs import RunSource, split_runs
from converter.data.sources import ArraySource
from converter.model_io.scratch import spool_file
from converter.model_io.user_code import user_code
from passes.errors import DataError

__all__ = ["array_source", "batch_arrays", "is_labelled", "is_pair", "only_input", "spool"]

_NO_MORE = object()
_SPOOL_LIMIT = 64 * 2**30  # bytes; a callable that yields more most likely never ends


def array_source(
    name: str,
    arrays: Mapping[str, Any],
    inputs: tuple[InputSpec, ...],
    preprocess: Preprocess,
    *,
    yielded: bool = False,
) -> ArraySource | RunSource:
    """Make a source from arrays.

    Args:
        name: Name of the data in error messages.
        arrays: Arrays by input name. The only input may be called "x". "y" holds labels.
        inputs: Inputs of the model.
        preprocess: Preprocessing of uint8 images.
        yielded: Whether the arrays are a batch of a callable. Then arrays of different lengths may be one run, and so
            are arrays without labels for a model whose axis 0 is a sequence.

    Returns:
        Rows, or whole runs if the inputs share no batch.

    Raises:
        DataError: An array is missing, or its shape or dtype does not fit.
    """
    values: dict[str, NDArray[Any]] = {}
    names: dict[str, str] = {}
    for spec in inputs:
        key = "x" if len(inputs) == 1 and "x" in arrays else spec.name
        if key not in arrays:
            present = ", ".join(arrays) or "nothing"
            raise DataError(
                f"{name}: no array for the model's input '{spec.name}' (it holds {present}); give an array of this name"
            )
        what = f"{name}: {key}"
        values[spec.name], names[spec.name] = _in_type_of(what, _as_array(what, arrays[key]), spec), key
    given = arrays.get("y") if "y" not in names.values() else None
    labels = None if given is None else _as_array(f"{name}: y", given)
    lengths = {names[key]: len(array) if array.ndim else 0 for key, array in values.items()}
    apart = len(set(lengths.values())) > 1
    fits = yielded and all(spec.fits_run(values[spec.name]) for spec in inputs)
    if not share_batch(inputs) or (fits and (apart or (labels is None and sequence_first(inputs)))):
        parts = split_runs(name, values, inputs)
        runs = tuple(ArraySource(name, part, names, None, inputs, preprocess, np.arange(1)) for part in parts)
        checked = None if labels is None else _labels(name, np.atleast_1d(labels), len(runs))
        return RunSource(name, runs, checked, True, np.arange(len(runs)))
    if apart:
        raise DataError(
            f"{name}: arrays of different lengths {lengths}; give one row of each input per sample, or yield the "
            "inputs of one run at a time from a callable"
        )
    rows = np.arange(next(iter(lengths.values())))
    checked = None if labels is None else _labels(name, labels, len(rows))
    return ArraySource(name, values, names, checked, inputs, preprocess, rows)


def _as_array(what: str, value: Any) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except Exception as error:  # ragged lists, tensors on another device or with gradients
        raise DataError(f"{what} is {type(value).__name__}, not an array ({error}); give a NumPy array") from error


def _in_type_of(what: str, array: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
    """Return floats for an input of floats, and integers for an input of integers, in the input's own type.

    numpy makes float64 and int64 where nothing else is said. Floats are rounded, and become Inf beyond the input's
    range, which is refused like any Inf. Integers must fit. Other arrays stay as they are.
    """
    kinds = {array.dtype.kind, spec.dtype.kind}
    if array.dtype == spec.dtype or not (kinds == {"f"} or kinds <= {"i", "u"}):
        return array
    if kinds == {"f"}:
        with np.errstate(over="ignore"):
            return array.astype(spec.dtype)
    limits = np.iinfo(spec.dtype)
    if array.size and not np.can_cast(array.dtype, spec.dtype, "safe"):
        rows = np.atleast_1d(array)
        least, most = int(rows.min()), int(rows.max())
        if least < limits.min or most > limits.max:
            wrong = least if least < limits.min else most
            row = int(np.argwhere(rows == wrong)[0][0])
            raise DataError(
                f"{what}[{row}] holds {wrong}, and the model's input {spec} takes {limits.min} to {limits.max}; "
                "correct that value, or give a model whose input holds it"
            )
    return array.astype(spec.dtype)


def _labels(name: str, labels: NDArray[Any], count: int) -> NDArray[np.int64]:
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{name}: labels are {labels.dtype}, not integers; save class indices as int64")
    if labels.shape != (count,):
        raise DataError(f"{name}: labels have shape {labels.shape} for {count} samples; give one label per sample")
    if count and labels.min() < 0:
        row = int(np.argmin(labels))
        raise DataError(f"{name}: label {labels[row]} of sample {row} is out of range; class indices start at 0")
    if count and int(labels.max()) > np.iinfo(np.int64).max:
        row = int(np.argmax(labels))
        raise DataError(f"{name}: label {labels[row]} of sample {row} is out of range; save class indices as int64")
    return labels.astype(np.int64)


def only_input(inputs: tuple[InputSpec, ...], what: str) -> InputSpec:
    """The model's only input.

    Raises:
        DataError: The model has several inputs, which data of this kind (``what``) cannot feed.
    """
    if len(inputs) > 1:
        names = ", ".join(spec.name for spec in inputs)
        raise DataError(
            f"{what} is one array, and the model has {len(inputs)} ({names}); give an array for each by name"
        )
    return inputs[0]


def is_pair(data: Any) -> bool:
    """Whether `data` is (images, labels): two arrays of different rank. Two arrays of equal rank are two batches."""
    return (
        isinstance(data, tuple | list)
        and len(data) == 2
        and all(hasattr(part, "__array__") for part in data)
        and len(np.shape(data[0])) != len(np.shape(data[1]))
    )


def is_labelled(data: Any) -> bool:
    """Whether `data` is (images, labels), where labels are a dictionary or a list with one entry for each image."""
    if not isinstance(data, tuple) or len(data) != 2 or not hasattr(data[0], "__array__"):
        return False
    labels = data[1]
    return isinstance(labels, Mapping) or (isinstance(labels, list) and len(labels) == len(data[0]))


def batch_arrays(name: str, batch: Any, inputs: tuple[InputSpec, ...], *, annotated: bool = False) -> Mapping[str, Any]:
    """A batch in the form for `array_source`: {input name: array}, or {"x": array}, with "y" if there are labels.

    With ``annotated``, labels may have any form, and several names.
    """
    if isinstance(batch, Mapping):
        return batch
    if annotated and is_labelled(batch):
        inputs_of = (
            batch[0] if isinstance(batch[0], Mapping) else {only_input(inputs, f"{name}: an array").name: batch[0]}
        )
        return {**inputs_of, **(batch[1] if isinstance(batch[1], Mapping) else {"y": batch[1]})}
    if isinstance(batch, tuple | list) and len(batch) == 1:
        return batch_arrays(name, batch[0], inputs, annotated=annotated)  # as torch's TensorDataset gives one tensor
    only_input(inputs, f"{name}: an array")
    if hasattr(batch, "__array__"):
        return {"x": batch}
    if isinstance(batch, tuple | list) and len(batch) == 2 and all(hasattr(part, "__array__") for part in batch):
        return {"x": batch[0], "y": batch[1]}
    raise DataError(f"{name}: a batch is {type(batch).__name__}; yield an array, (array, labels) or {{name: array}}")


@dataclass(frozen=True)
class _Block:
    """What was written of one batch, or of one run: the shapes of its arrays, and its labels."""

    shapes: Mapping[str, tuple[int, ...]]
    run: bool
    labels: NDArray[np.int64] | None


def spool(
    name: str, batches: Iterable[Any], inputs: tuple[InputSpec, ...], preprocess: Preprocess, limit: int | None
) -> ArraySource | RunSource:
    """Store batches in temporary files, up to `limit` rows. The files vanish with the arrays that are mapped to them.

    If batches differ in size, or the inputs share no batch, each sample will run on its own.

    Args:
        name: Name of the data in error messages.
        batches: The batches.
        inputs: Inputs of the model.
        preprocess: Preprocessing of uint8 images.
        limit: Most rows to use. None: all.

    Raises:
        DataError: The model cannot take a batch, or a batch has another type than the first. The message names the
            batch.
    """
    first: ArraySource | None = None
    blocks: list[_Block] = []
    count = size = 0
    with ExitStack() as stack:
        files = {spec.name: stack.enter_context(spool_file()) for spec in inputs}
        for index, batch in enumerate(_guarded(name, batches)):
            what = f"{name}: batch {index}"
            part = array_source(what, batch_arrays(what, batch, inputs), inputs, preprocess, yielded=True)
            for piece, labels in _pieces(part):
                first = first or piece
                _check_alike(name, index, piece, first)
                if blocks and (labels is None) != (blocks[0].labels is None):
                    raise DataError(
                        f"{name}: batch {index} and batch 0 do not both have labels; give labels to all batches or to "
                        "none"
                    )
                for key, array in piece.arrays.items():
                    files[key].write(np.ascontiguousarray(array).tobytes())
                    size += array.nbytes
                shapes = {key: array.shape for key, array in piece.arrays.items()}
                blocks.append(_Block(shapes, isinstance(part, RunSource), labels))
            count += len(part)
            if limit is not None and count >= limit:
                break
            if size > _SPOOL_LIMIT:
                raise DataError(f"{name}: more than {_SPOOL_LIMIT >> 30} GiB of batches; give a `limit=`")
        if first is None:
            raise DataError(f"{name}: gives no batches; yield at least one (an iterator can be used only once)")
        flat: dict[str, NDArray[Any]] = {}
        for key, array in first.arrays.items():
            files[key].flush()
            elements = sum(math.prod(block.shapes[key]) for block in blocks)
            mapped = (
                np.memmap(files[key], array.dtype, "r", shape=(elements,)) if elements else np.zeros(0, array.dtype)
            )
            flat[key] = mapped
    source = _joined(name, blocks, flat, first)
    return source if limit is None or len(source) <= limit else source.take(np.arange(limit))


def _pieces(part: ArraySource | RunSource) -> Iterator[tuple[ArraySource, NDArray[np.int64] | None]]:
    """Yield what is written together, with its labels: all rows of a batch, or one run."""
    if isinstance(part, ArraySource):
        yield part, part.labels
        return
    for place, run in enumerate(part.runs):
        yield run, None if part.labels is None else part.labels[place : place + 1]


def _joined(
    name: str, blocks: Sequence[_Block], flat: Mapping[str, NDArray[Any]], first: ArraySource
) -> ArraySource | RunSource:
    """Make one source of all blocks. ``flat`` has the elements of all of them, one after the other."""
    all_labels = [block.labels for block in blocks if block.labels is not None]
    labels = np.concatenate(all_labels) if all_labels else None
    whole = any(block.run for block in blocks) or (not all_labels and _are_sequences(blocks, first.specs))
    if not whole and len({tuple(shape[1:] for shape in block.shapes.values()) for block in blocks}) == 1:
        count = sum(next(iter(block.shapes.values()))[0] for block in blocks)
        arrays = {key: values.reshape(count, *blocks[0].shapes[key][1:]) for key, values in flat.items()}
        return replace(first, source=name, arrays=arrays, labels=labels, rows=np.arange(count))
    runs: list[ArraySource] = []
    read = dict.fromkeys(flat, 0)
    for block in blocks:
        arrays = {}
        for key, shape in block.shapes.items():
            end = read[key] + math.prod(shape)
            arrays[key], read[key] = flat[key][read[key] : end].reshape(shape), end
        rows = 1 if whole else next(iter(block.shapes.values()))[0]
        parts = [arrays] if whole else [{k: a[row : row + 1] for k, a in arrays.items()} for row in range(rows)]
        runs += [replace(first, source=name, arrays=part, labels=None, rows=np.arange(1)) for part in parts]
    if labels is not None and len(labels) != len(runs):
        raise DataError(f"{name}: {len(labels)} labels for {len(runs)} runs; yield one label with each run")
    return RunSource(name, tuple(runs), labels, whole, np.arange(len(runs)))


def _are_sequences(blocks: Sequence[_Block], specs: Sequence[InputSpec]) -> bool:
    """Whether axis 0 is a sequence by its lengths, which differ. Batches differ too, but only the last one is shorter.

    Axes with names are told apart by these, and axis 0 of images is the batch.
    """
    if any(spec.symbols and spec.symbols[0] for spec in specs) or any(len(spec.shape) > 3 for spec in specs):
        return False
    lengths = [next(iter(block.shapes.values()))[0] for block in blocks]
    return specs[0].shape[0] is None and len(set(lengths[:-1])) > 1


def _check_alike(name: str, index: int, part: ArraySource, first: ArraySource) -> None:
    for key, array in part.arrays.items():
        start = first.arrays[key]
        if array.dtype != start.dtype or array.ndim != start.ndim:
            raise DataError(
                f"{name}: batch {index} holds {array.dtype} {array.shape[1:]}, batch 0 {start.dtype} "
                f"{start.shape[1:]}; give all batches one dtype"
            )


def _guarded(name: str, batches: Iterable[Any]) -> Iterator[Any]:
    with user_code(name, DataError):
        iterator = iter(batches)
    while True:
        with user_code(name, DataError):
            batch = next(iterator, _NO_MORE)
        if batch is _NO_MORE:
            return
        yield batch
