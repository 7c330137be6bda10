"""Temporary folders that leave nothing behind, and files that get their name only when they are complete.

A process that is killed cannot remove its temporary folder. So every folder holds a lock, which the system releases
when the process ends, however it ends. The next run removes folders of the same kind whose lock is free.
"""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

__all__ = ["keep_mode", "replacing", "scratch_folder"]

_PREFIX = "convert-onnx-"
_LOCK = ".lock"


@contextlib.contextmanager
def scratch_folder(beside: Path | None = None) -> Iterator[Path]:
    """Yield a new folder, which is removed at the end. Folders that killed runs left in the same place are removed.

    Args:
        beside: A file to be written. The folder is hidden and beside it, so that a rename moves the result. None: the
            folder is in the system's folder for temporary files.

    Raises:
        OSError: The folder cannot be created.
    """
    prefix, suffix = (_PREFIX, "") if beside is None else (f".{beside.name}.", ".tmp")
    parent = Path(tempfile.gettempdir()) if beside is None else beside.parent
    _remove_abandoned(parent, prefix, suffix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=parent))
    with (folder / _LOCK).open("wb") as lock:
        _lock(lock)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path to write. At the end of the block, what was written gets the name ``target`` in one step.

    If the block fails, the target stays as it was. A file that is replaced keeps its permissions.

    Raises:
        OSError: The file cannot be written or renamed.
    """
    with scratch_folder(target) as folder:
        written = folder / target.name
        yield written
        keep_mode(target, written)
        written.replace(target)


def keep_mode(existing: Path, written: Path) -> None:
    """Give a new file the permissions of the file that it replaces, if there is one.

    Raises:
        PermissionError: The existing file may not be written.
    """
    try:
        mode = stat.S_IMODE(existing.stat().st_mode)
    except FileNotFoundError:
        return
    if not os.access(existing, os.W_OK):
        raise PermissionError(errno.EACCES, "the existing file may not be written", str(existing))
    written.chmod(mode)


def _remove_abandoned(parent: Path, prefix: str, suffix: str) -> None:
    """Remove folders whose lock no process holds. A folder without a lock is new, or not ours."""
    for folder in parent.iterdir():
        lock = folder / _LOCK
        if not folder.name.startswith(prefix) or not folder.name.endswith(suffix) or folder.is_symlink():
            continue
        with contextlib.suppress(OSError):  # another user's, or being removed by another process
            with lock.open("rb+") as file:
                free = _lock(file)
            if free:
                shutil.rmtree(folder, ignore_errors=True)


def _lock(file: IO[bytes]) -> bool:
    """Take the lock of an open file, if it is free. Return whether it is taken now."""
    try:
        import fcntl
    except ImportError:  # Windows, where abandoned folders stay
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
