"""Temporary folders that leave nothing behind, and files that get their name only when they are complete.

A process that is killed cannot remove its temporary folder. So every folder holds a lock, which the system releases
when the process ends, however it ends. The next run removes folders of the same kind whose lock is free. The lock is
the first file of a folder and the last, so a folder without a lock is empty.
"""

import contextlib
import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from converter.model_io.lock import still_at, take
from converter.model_io.signals import signals_held
from converter.model_io.user_code import Terminated

__all__ = ["keep_mode", "note_placed", "replacing", "scratch_folder", "spool_file"]

_PREFIX = "convert-onnx-"
_LOCK, _PLACED = ".lock", ".placed"
_RANDOM = "[a-z0-9_]{8}"  # what `tempfile.mkdtemp` puts into a name


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
    with contextlib.ExitStack() as held:
        held.enter_context(signals_held())
        parent = Path(tempfile.gettempdir()) if beside is None else beside.parent
        _remove_abandoned(parent, prefix, suffix, beside)
        folder, lock = _new(parent, prefix, suffix)
        try:
            held.close()  # a signal that came meanwhile is raised here
            with _named(parent if beside is None else beside):
                yield folder
        finally:
            _give_back(folder, lock)


def _give_back(folder: Path, lock: int) -> None:
    """Remove a folder and free its lock, even if a signal comes just before signals are held."""
    stopped: BaseException | None = None
    removed = False
    while not removed:
        try:
            with signals_held():
                _remove(folder)
                os.close(lock)
                removed = True
        except (KeyboardInterrupt, Terminated) as error:
            stopped = error
    if stopped is not None:
        raise stopped


@contextlib.contextmanager
def spool_file() -> Iterator[IO[bytes]]:
    """Yield a temporary file without a name, in the system's folder for temporary files.

    Raises:
        OSError: The file cannot be created or written. The error names the folder.
    """
    with _named(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as file:
        yield file


@contextlib.contextmanager
def _named(place: Path) -> Iterator[None]:
    """Give errors of a full disk a place, since the system says none where it writes to an open file."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO) and error.filename is None:
            error.filename = str(place)
        raise


def note_placed(folder: Path, names: Iterable[str]) -> None:
    """Note in a temporary folder which files beside it a save is about to place or to remove.

    If the process is killed, the next run removes those that the model does not name.

    Raises:
        OSError: The note cannot be written.
    """
    (folder / _PLACED).write_bytes(b"\0".join(map(os.fsencode, names)))


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


def _new(parent: Path, prefix: str, suffix: str) -> tuple[Path, int]:
    """Create a folder with a lock. Another run that takes it for an abandoned one before it is locked may remove it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=parent))
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue
        except BaseException:
            folder.rmdir()
            raise
        with contextlib.suppress(OSError):  # no locks here: abandoned folders stay
            if not take(lock) or not still_at(lock, folder / _LOCK):
                os.close(lock)
                continue
        return folder, lock


def _remove_abandoned(parent: Path, prefix: str, suffix: str, beside: Path | None) -> None:
    """Remove folders whose lock no process holds, and those that are empty."""
    name = re.compile(re.escape(prefix) + _RANDOM + re.escape(suffix))
    with contextlib.suppress(OSError):  # a folder that may be written but not listed
        for folder in parent.iterdir():
            if name.fullmatch(folder.name) and not folder.is_symlink():
                with contextlib.suppress(OSError):  # another user's, or being removed by another process
                    _remove_if_abandoned(folder, beside)


def _remove_if_abandoned(folder: Path, beside: Path | None) -> None:
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        folder.rmdir()  # which fails if there is something in it
        return
    try:
        if take(lock):
            if beside is not None and (folder / _PLACED).exists():
                _remove_unnamed(beside, (folder / _PLACED).read_bytes())
            _remove(folder)
    finally:
        os.close(lock)


def _remove_unnamed(model: Path, placed: bytes) -> None:
    """Remove the files of an interrupted save that the model does not name: see `note_placed`."""
    from converter.model_io.write import data_files_of

    named = data_files_of(model)
    for name in filter(None, placed.split(b"\0")):
        file = model.with_name(os.fsdecode(name))
        if file not in named:
            file.unlink(missing_ok=True)


def _remove(folder: Path) -> None:
    """Remove a folder, its lock last. What cannot be removed stays."""
    with contextlib.suppress(OSError):
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != _LOCK:
                entry.unlink(missing_ok=True)
        (folder / _LOCK).unlink(missing_ok=True)
        folder.rmdir()
