"""Folders of measurements, so that interrupted work can be resumed and nothing is computed twice.

    DIR/<key>/about.json          the facts that the key is a hash of
    DIR/<key>/statistics.npz      what a step of a conversion found, see `converter.cache.steps`
    DIR/<key>/layer-<hash>.npz    the solution of one layer
    DIR/<key>/block-0003.npz      what became of a block that learned
    DIR/<key>/effect-0003.npz     errors of one layer at every number of bits, in a search
    DIR/<key>/attempt.npz         measurements of one file, in a search

The key is a hash of all that the arrays depend on: model, samples, recipe, target, versions, and this package's own
source. A file is renamed to its final name last, so every file with such a name is complete.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.model_io.lock import owned
from converter.model_io.scratch import replacing
from passes.errors import DataError, OutputError, argument

__all__ = ["MOST_BYTES", "NOWHERE", "Arrays", "Cache", "forget", "holds_something", "shrink", "used"]

MOST_BYTES = 4 << 30
"""Bytes that a folder of caches keeps."""

_NAME = "stored under"  # array that holds the name under which the others were stored
_KEY = "[0-9a-f]" * 16  # pattern of the folders' names, for `glob`

Arrays = Mapping[str, NDArray[Any]]


class Cache:
    """Named groups of arrays in a folder.

    Args:
        folder: Folder of all caches. None: nothing is stored.
        facts: JSON values that the arrays depend on.

    Raises:
        OutputError: The folder cannot be created.
    """

    def __init__(self, folder: Path | None, facts: Mapping[str, Any]) -> None:
        self.folder: Path | None = None
        if folder is None:
            return
        text = json.dumps(facts, sort_keys=True)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]  # see _KEY
        _make(self.folder, folder)
        self._write("about.json", json.dumps(facts, indent=2, sort_keys=True).encode())

    def load(self, name: str) -> dict[str, NDArray[Any]] | None:
        """Return the arrays of that name, or None if there are none.

        Raises:
            DataError: The file is damaged.
        """
        if self.folder is None or not (self.folder / f"{name}.npz").exists():
            return None
        path = self.folder / f"{name}.npz"
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
        except Exception as error:  # a damaged zip archive raises errors of many types
            raise DataError(f"{path} is damaged; delete it to measure it again") from error
        if str(arrays.pop(_NAME, "")) != name:
            raise DataError(f"{path} is not of this search; delete it to measure it again")
        return arrays

    def store(self, name: str, arrays: Arrays) -> None:
        """Store arrays under a name."""
        if self.folder is None:
            return
        with io.BytesIO() as file:
            np.savez(file, **dict(arrays), **{_NAME: np.array(name)})  # type: ignore[arg-type]  # no array is called allow_pickle
            self._write(f"{name}.npz", file.getvalue())

    def _write(self, name: str, content: bytes) -> None:
        """Write a file that gets its name when it is complete."""
        assert self.folder is not None
        path = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)  # another process may have removed the oldest
            with replacing(path) as written, written.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}; give another `cache=` folder") from error


NOWHERE = Cache(None, {})
"""A cache that stores nothing."""


@contextlib.contextmanager
def used(folder: Path, *, shared: bool) -> Iterator[None]:
    """Use a folder of caches. At the end, the folder is removed if it is new and empty.

    Args:
        folder: The folder. It need not exist.
        shared: Whether other processes may use it at the same time. No: this one will remove it.

    Raises:
        OutputError: Another process uses it, or it cannot be written.
    """
    existed = folder.exists()
    _make(folder, folder)
    try:
        with owned(folder, folder / ".lock", shared=shared):
            yield
    finally:
        if not (existed and shared):
            with contextlib.suppress(OSError):  # it contains something
                folder.rmdir()


def _make(folder: Path, caches: Path) -> None:
    """Create a folder in the folder of all caches."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{argument(cache=str(caches))} cannot be used: {error.strerror}; give another folder"
        ) from error


def holds_something(folder: Path) -> bool:
    """Whether a folder of caches contains any measurement."""
    return any(folder.glob(f"{_KEY}/*.npz"))


def shrink(folder: Path, most: int = MOST_BYTES) -> int:
    """Remove the caches that were used longest ago, until a folder of caches has at most ``most`` bytes.

    Returns:
        The bytes that are left.
    """
    caches = {}
    for cache in folder.glob(_KEY):
        with contextlib.suppress(OSError):  # another process may remove it meanwhile
            caches[cache] = (cache.stat().st_mtime_ns, sum(file.stat().st_size for file in cache.iterdir()))
    total = sum(size for _, size in caches.values())
    for cache, (_, size) in sorted(caches.items(), key=lambda entry: entry[1]):
        if total <= most:
            break
        shutil.rmtree(cache, ignore_errors=True)
        total -= size
    return total


def forget(folder: Path) -> None:
    """Remove the caches in a folder, including incomplete files. What else is in the folder stays."""
    for cache in folder.glob(_KEY):
        shutil.rmtree(cache, ignore_errors=True)
