"""Make a source of samples from what the caller names: a file, a folder, a callable, or arrays in memory."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.data.batches import array_source, batch_arrays, is_labelled, is_pair, only_input, spool
from converter.data.inputs import InputSpec
from converter.data.preprocess import Preprocess
from converter.data.sources import FolderSource, Source
from converter.model_io.files import npz_fault, special_kind
from converter.model_io.python_spec import call, functions_of, load_name, parse_spec
from passes.errors import DataError, UsageError

__all__ = ["source_in_memory", "source_of_path"]


def source_of_path(
    name: str,
    inputs: tuple[InputSpec, ...],
    preprocess: Preprocess,
    limit: int | None,
    others: dict[str, Any] | None,
) -> Source:
    """Make a source from a path. ``others`` gets arrays that are no inputs, if they are wanted."""
    if not name:
        raise DataError("the name of the data is empty; give an .npz file, a folder of images or FILE.py:CALLABLE")
    path = Path(name)
    if ".py:" in name:
        spec = parse_spec(name, "FILE.py:CALLABLE or FILE.py:CALLABLE(name=value)")
        with load_name(spec.path, spec.name, DataError) as value:
            if spec.arguments and not callable(value):
                raise UsageError(f"{spec} is {type(value).__name__}, which takes no arguments")
            return source_in_memory(name, value, inputs, preprocess, limit, others, spec.arguments)
    if not path.exists():
        raise DataError(f"{name}: no such file or folder; give an .npz file, a folder of images or FILE.py:CALLABLE")
    if kind := special_kind(path):
        raise DataError(f"{name} is {kind}, not a file; give an .npz file or a folder of images")
    if path.is_dir():
        return FolderSource.scan(path, only_input(inputs, f"{name}: a folder of images"), preprocess)
    if path.suffix == ".npz":
        return array_source(name, _apart(_read_npz(path, inputs, others), inputs, others), inputs, preprocess)
    if path.suffix == ".npy":
        return array_source(name, batch_arrays(name, _read_npy(path), inputs), inputs, preprocess)
    if path.suffix == ".py":
        examples = ", ".join(f"{name}:{function}" for function in functions_of(path)) or f"{name}:CALLABLE"
        raise UsageError(f"{name}: name the function in it that yields the data: {examples}")
    raise DataError(f"{name}: data cannot be read from a '{path.suffix}' file; use an .npz file or a folder of images")


def _apart(arrays: Mapping[str, Any], inputs: Sequence[InputSpec], others: dict[str, Any] | None) -> Mapping[str, Any]:
    """Move arrays that are neither inputs nor class numbers to ``others``, if they are wanted."""
    if others is None:
        return arrays
    inputs_and_x = {"x", *(spec.name for spec in inputs)}
    others |= {name: each for name, each in arrays.items() if name not in inputs_and_x and not _is_classes(name, each)}
    return {name: each for name, each in arrays.items() if name not in others}


def _is_classes(name: str, labels: Any) -> bool:
    """Whether labels are class numbers, one for each sample."""
    array = np.asarray(labels) if hasattr(labels, "__array__") else np.zeros((0, 0))
    return name == "y" and array.ndim == 1 and array.dtype.kind in "iu" and (not array.size or int(array.min()) >= 0)


def _read_npz(path: Path, inputs: tuple[InputSpec, ...], others: dict[str, Any] | None) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            wanted = {"x", "y", *(spec.name for spec in inputs)}
            arrays = {key: file[key] for key in file.files if key in wanted or others is not None}
            present = ", ".join(file.files) or "nothing"
    except Exception as error:  # a damaged zip archive raises errors of many types
        raise DataError(f"{path} cannot be read as .npz: {npz_fault(path, error)}") from error
    if len(inputs) == 1 and "x" not in arrays and inputs[0].name not in arrays:
        raise DataError(f"{path}: has no array x (it holds {present}); save the images as np.savez(..., x=images)")
    return arrays


def _read_npy(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as stream:
            array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    except Exception as error:  # numpy raises errors of many types for a damaged file
        fault = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged or no array"
        raise DataError(f"{path} cannot be read as .npy: {fault}; np.save(...) of numbers makes one") from error
    return array


def source_in_memory(
    name: str,
    data: Any,
    inputs: tuple[InputSpec, ...],
    preprocess: Preprocess,
    limit: int | None,
    others: dict[str, Any] | None,
    arguments: Mapping[str, Any] = MappingProxyType({}),
) -> Source:
    """Make a source of arrays, a callable or an iterable.

    Args:
        name: Name of the data in messages.
        data: The data.
        inputs: Inputs of the model.
        preprocess: Preprocessing of uint8 images.
        limit: Most samples to read from an iterable. None: all.
        others: Gets labels that are no class numbers, if they are wanted.
        arguments: Arguments of a callable.

    Raises:
        DataError: The data cannot be used.
    """
    if callable(data) and not hasattr(data, "__array__"):
        data = call(data, arguments, name, DataError)
    whole = hasattr(data, "__array__") or isinstance(data, Mapping) or is_pair(data)
    if whole or (others is not None and is_labelled(data)):
        arrays = batch_arrays(name, data, inputs, annotated=others is not None)
        return array_source(name, _apart(arrays, inputs, others), inputs, preprocess)
    if not isinstance(data, Iterable):
        raise DataError(f"{name}: gives {type(data).__name__}, not batches; yield arrays or (array, labels)")
    if others is not None:
        data = _peeled(name, data, inputs, others)
    return spool(name, data, inputs, preprocess, limit)


def _peeled(name: str, batches: Iterable[Any], inputs: tuple[InputSpec, ...], others: dict[str, Any]) -> Iterator[Any]:
    """Yield batches without the labels that are no class numbers, and collect these, one entry for each sample.

    Raises:
        DataError: Labels do not fit the batch, or a batch lacks labels that another one has.
    """
    for index, batch in enumerate(batches):
        what = f"{name}: batch {index}"
        labels: dict[str, Any] = {}
        arrays = _apart(batch_arrays(what, batch, inputs, annotated=True), inputs, labels)
        if index and set(labels) != set(others):
            raise DataError(f"{what} has labels {sorted(labels)}, and batch 0 has {sorted(others)}; give all of them")
        rows = {len(each) for each in arrays.values() if np.ndim(each)}
        for key, each in labels.items():
            alone = len(rows) != 1 or rows == {1}
            entries = [each] if alone and np.shape(each)[:1] != (1,) else list(each)
            if not alone and len(entries) != max(rows):
                raise DataError(f"{what}: {key} has {len(entries)} entries for {max(rows)} samples; give one for each")
            others.setdefault(key, []).extend(entries)
        yield arrays
