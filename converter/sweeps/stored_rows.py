"""Rows of a sweep on disk, so that an interrupted sweep goes on.

    DIR/rows/<key>.json    one row
    DIR/files/<name>.onnx  its file
    DIR/rows/files.txt     names of all files that sweeps here have begun to write

The key is a digest of all that a row depends on. A row counts only with its own key, and with the file that it made.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from converter.model_io.external_data import data_locations
from converter.model_io.load import read_onnx
from converter.model_io.scratch import replacing
from converter.pipeline.sweep_record import SweepRow
from passes.errors import ConvertError, OutputError, argument

__all__ = ["StoredRows", "digest_of"]

_LOG = logging.getLogger(__name__)


class StoredRows:
    """The rows in the folder of a sweep.

    Args:
        folder: Folder of the sweep. It is created if it does not exist.

    Raises:
        OutputError: The folder cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = folder / "files"
        try:
            for each in (folder / "rows", self.files):
                each.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{argument(folder=str(folder))} cannot be used: {error.strerror}; give another folder"
            ) from error

    def load(self, key: str) -> SweepRow | None:
        """Return the row with this key, if it is complete and its file is the one that it made."""
        path = self._path(key)
        try:
            row = SweepRow.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, TypeError, ValueError, AttributeError):
            _LOG.warning("%s is damaged; its conversion runs again", path)
            return None
        if row.key != key:
            _LOG.warning("%s is of another conversion; its own runs again", path)
            return None
        if row.file and self._digest(row.file) != row.sha256:
            return None
        return row

    def store(self, row: SweepRow) -> None:
        """Store a row under its key.

        Raises:
            OutputError: It cannot be written.
        """
        text = json.dumps(_values(row), indent=2)  # with Infinity, which Python reads
        path = self._path(row.key)
        try:
            with replacing(path) as written:
                written.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}; give another folder") from error

    def claim(self, names: Sequence[str]) -> None:
        """Note files that this sweep will write. Those that others wrote stay.

        Args:
            names: Names of the files, without the suffix.

        Raises:
            OutputError: A file of that name exists that no sweep in this folder wrote, or the note cannot be written.
        """
        note = self.folder / "rows" / "files.txt"
        try:
            own = set(note.read_text(encoding="utf-8").splitlines()) if note.exists() else set()
            for name in names:
                for path in (self.files / f"{name}.onnx", self.files / f"{name}.onnx.data"):
                    if name not in own and path.exists():
                        raise OutputError(f"{path} is not of this sweep; move it, or give another folder")
            if not own.issuperset(names):
                with replacing(note) as written:
                    written.write_text("".join(f"{each}\n" for each in sorted(own.union(names))), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{note} cannot be written: {error.strerror}; give another folder") from error

    def _path(self, key: str) -> Path:
        return self.folder / "rows" / f"{key}.json"

    def _digest(self, name: str) -> str:
        try:
            return digest_of(self.files / name)
        except (OSError, ConvertError):
            return ""


def _values(row: SweepRow) -> dict[str, Any]:
    measure = None if row.measure is None else vars(row.measure)
    return {**vars(row), "measure": measure}


def digest_of(path: Path) -> str:
    """SHA-256 in hex of a model file and the external data that it names.

    Raises:
        OSError: A file cannot be read.
        ModelError: The model cannot be read.
    """
    total = hashlib.sha256()
    for each in (path, *data_locations(path, read_onnx(path))):
        with each.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
