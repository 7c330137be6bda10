"""A conversion that another process carries out, with all that it needs if that process shares no disk."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converter.engine.storage import Storage
from converter.model_io.external_data import data_locations
from converter.model_io.load import read_onnx
from converter.model_io.scratch import scratch_folder
from converter.pipeline.sweep_record import SweepRow
from converter.sweeps.conversion import Conversion, converted
from converter.sweeps.stored_rows import digest_of

__all__ = ["Errand", "carried_out", "fetched", "forgotten", "shipped"]

_INPUTS = ("model", "calibration", "evaluation")


@dataclass(frozen=True)
class Errand:
    """A conversion and where its inputs and its file are.

    Attributes:
        job: The conversion. With a storage, its paths are relative to the folder that ``inputs`` are copied to.
        folder: Folder for the file. None: it goes to the storage, or it is not kept.
        storage: Storage of the inputs and the file. None: the process shares this disk.
        inputs: Stored names by relative path.
        names: The user's names of paths, by relative path, for messages.
        keep: Whether the file is kept.
    """

    job: Conversion
    folder: Path | None = None
    storage: Storage | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    keep: bool = True


def shipped(job: Conversion, storage: Storage, keep: bool, known: dict[Path, str]) -> Errand:
    """Put the inputs of a conversion into the storage.

    Args:
        job: The conversion.
        storage: The storage.
        keep: Whether the file is kept.
        known: Stored names of files. New ones are added.

    Raises:
        OutputError: The storage cannot be used.
    """
    inputs: dict[str, str] = {}
    changed: dict[str, Any] = {}
    for name in _INPUTS:
        spec = getattr(job, name)
        if spec is not None:
            changed[name] = _ship(spec, name, storage, inputs, known)
    metric = job.settings.metric
    if isinstance(metric, str) and ".py:" in metric:
        moved = _ship(metric, "metric", storage, inputs, known)
        changed["settings"] = dataclasses.replace(job.settings, metric=moved)
    names = {_file(changed[name]): _file(getattr(job, name)) for name in _INPUTS if name in changed}
    return Errand(dataclasses.replace(job, **changed), None, storage, inputs, names, keep)


def _file(spec: str) -> str:
    """Return the path of a path or of ``FILE.py:CALLABLE``, without the suffix of the latter."""
    return spec.partition(".py:")[0]


def _ship(spec: str, name: str, storage: Storage, inputs: dict[str, str], known: dict[Path, str]) -> str:
    """Store the files of a path or specification. Return the same, relative to the folder of the inputs."""
    file, function, call = spec.partition(".py:")
    path = Path(f"{file}.py" if function else spec)
    files = _files_below(path) if path.is_dir() else [path]
    if path.suffix == ".onnx":
        files += data_locations(path, read_onnx(path))
    root = path if path.is_dir() else path.parent
    for each in files:
        if each not in known:
            known[each] = storage.keep(each)
        inputs[f"{name}/{each.relative_to(root).as_posix()}"] = known[each]
    place = name if path.is_dir() else f"{name}/{path.name}"
    return f"{place}:{call}" if function else place


def _files_below(root: Path) -> list[Path]:
    """Return the files of a folder as image folders are read: below links to folders too, and hidden ones are not."""
    found: list[Path] = []
    seen: set[str] = set()  # a link may lead back to a folder above
    for folder, below, names in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))
        below[:] = [
            name for name in below if not name.startswith(".") and os.path.realpath(Path(folder, name)) not in seen
        ]
        found += [Path(folder, name) for name in names if not name.startswith(".") and Path(folder, name).is_file()]
    return sorted(found)


def carried_out(errand: Errand) -> SweepRow:
    """Convert, in any process. The file is in the folder of the errand, or in its storage.

    Raises:
        OutputError: A folder or the storage cannot be used.
    """
    if errand.storage is None:
        return converted(errand.job, errand.folder)
    with scratch_folder() as here:
        for place, name in errand.inputs.items():
            errand.storage.get(name, here / place)
        files = here / "files"
        files.mkdir()
        row = _in_words_of(errand, converted(_at(errand.job, here), files if errand.keep else None), here)
        if row.file:
            path = files / row.file
            for each in (path, *data_locations(path, read_onnx(path))):
                errand.storage.put(each, f"{_place(row.key)}/{each.name}")
        return row


def _in_words_of(errand: Errand, row: SweepRow, here: Path) -> SweepRow:
    """Return the row with the user's names of files in its messages."""

    def said(text: str) -> str:
        for place, name in errand.names.items():
            text = text.replace(str(here / place), name)
        return text

    return dataclasses.replace(row, failure=said(row.failure), warnings=tuple(map(said, row.warnings)))


def _at(job: Conversion, here: Path) -> Conversion:
    """Return the conversion with absolute paths."""
    given = {name: getattr(job, name) for name in _INPUTS}
    places: dict[str, Any] = {name: str(here / spec) for name, spec in given.items() if spec is not None}
    settings = dataclasses.replace(job.settings, cache=here / "work")
    if isinstance(settings.metric, str) and ".py:" in settings.metric:
        settings = dataclasses.replace(settings, metric=str(here / settings.metric))
    return dataclasses.replace(job, **places, settings=settings)


def fetched(errand: Errand, row: SweepRow, folder: Path) -> SweepRow:
    """Copy the file of a row from the storage to ``folder``, and remove it there.

    Raises:
        OutputError: The storage cannot be used, or has another file.
    """
    if errand.storage is None or not row.file:
        return row
    path, place = folder / row.file, _place(row.key)
    errand.storage.get(f"{place}/{row.file}", path)
    for each in data_locations_of(path):
        errand.storage.get(f"{place}/{each}", folder / each)
    errand.storage.remove(place)
    if digest_of(path) != row.sha256:
        path.unlink()
        failure = "its file changed on the way from the worker; `retry=True` makes it again"
        return dataclasses.replace(row, file="", sha256="", failure=failure)
    return row


def forgotten(errand: Errand) -> None:
    """Remove what a worker stored of a conversion that nobody waits for."""
    if errand.storage is not None:
        errand.storage.remove(_place(errand.job.key))


def _place(key: str) -> str:
    """Return the folder in the storage for the file of a conversion."""
    return f"results/{key}"


def data_locations_of(path: Path) -> list[str]:
    """Return the names of the files with weights that a model names, whether they exist or not."""
    model = read_onnx(path)
    found = {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    return sorted(found)
