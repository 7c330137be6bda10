"""Storage that this process and its workers share: a folder, or any address that fsspec knows."""

import hashlib
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passes.errors import OutputError, argument, first_line

__all__ = ["Storage"]


@dataclass(frozen=True)
class Storage:
    """Files by name.

    Attributes:
        address: Folder, or address such as ``s3://bucket/prefix``, which needs the package that fsspec names.
    """

    address: str

    def require_writable(self) -> None:
        """Check that a file can be written, read and removed.

        Raises:
            OutputError: It cannot.
        """
        name = f"probe-{uuid.uuid4().hex}"
        with self._refused():
            files, place = self._files(name)
            files.makedirs(files._parent(place), exist_ok=True)
            with files.open(place, "wb") as file:
                file.write(b"probe")
            files.rm(place)

    def keep(self, path: Path) -> str:
        """Store a file under the digest of its bytes, unless it is there. Return the name."""
        with path.open("rb") as file:
            name = f"{hashlib.file_digest(file, 'sha256').hexdigest()}{path.suffix}"
        with self._refused():
            files, place = self._files(name)
            if not files.exists(place):
                self._write(path, name)
        return name

    def put(self, path: Path, name: str) -> None:
        """Store a file under a name.

        Raises:
            OutputError: It cannot be written.
        """
        with self._refused():
            self._write(path, name)

    def get(self, name: str, path: Path) -> None:
        """Copy a stored file to ``path``.

        Raises:
            OutputError: It cannot be read or written.
        """
        with self._refused():
            files, place = self._files(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.open(place, "rb") as source, path.open("wb") as file:
                shutil.copyfileobj(source, file)

    def remove(self, name: str) -> None:
        """Remove a stored file or folder, if it is there."""
        with self._refused():
            files, place = self._files(name)
            if files.exists(place):
                files.rm(place, recursive=True)

    def _write(self, path: Path, name: str) -> None:
        """Write a file that gets its name last, since several processes may store the same."""
        files, place = self._files(name)
        _, part = self._files(f"{name}.{uuid.uuid4().hex}.part")
        files.makedirs(files._parent(place), exist_ok=True)
        with path.open("rb") as source, files.open(part, "wb") as file:
            shutil.copyfileobj(source, file)
        files.mv(part, place)

    def _files(self, name: str) -> tuple[Any, str]:
        import fsspec

        files, root = fsspec.core.url_to_fs(self.address)
        return files, f"{root.rstrip('/')}/{name}"

    @contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each file system has errors of its own
            raise OutputError(
                f"{argument(storage=self.address)} cannot be used: {type(error).__name__}: {first_line(error)}"
            ) from error
