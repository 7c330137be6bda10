"""Locks that end with the process that holds them, however it ends.

A lock is an flock of a file, so a killed process leaves no lock behind. It may leave the file, which the next process
takes over and removes. The file has the number of the process that holds it.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from converter.model_io.signals import signals_held
from passes.errors import OutputError

__all__ = ["owned", "still_at", "take"]


def take(file: IO[bytes] | int, *, shared: bool = False, wait: bool = False) -> bool:
    """Take the lock of an open file, if it is free or ``wait`` is set. Return whether it is taken now.

    Raises:
        OSError: The file system or the operating system has no such locks.
    """
    try:
        import fcntl
    except ImportError as error:  # Windows
        raise OSError(errno.ENOTSUP, "no file locks") from error
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def owned(path: Path, lock: Path | None = None, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Own a file or folder that will be written. Another process that wants it as well is refused.

    Where the file system has no locks, nobody is refused.

    Args:
        path: The file or folder, for the message.
        lock: File that holds the lock. None: a hidden file beside ``path``.
        shared: Whether others may own it at the same time, if they share it too.
        wait: Whether to wait until it is free.

    Raises:
        OutputError: Another process owns it, or the lock cannot be written.
    """
    target = Path(os.path.realpath(path))
    place = target.with_name(f".{target.name}.lock") if lock is None else lock
    with contextlib.ExitStack() as held:
        if not wait:
            held.enter_context(signals_held())
        try:
            file = _locked(place, path, shared=shared, wait=wait)
        except OSError as error:
            raise OutputError(f"{path}: {place} cannot be written: {error.strerror}; give another name") from error
        try:
            held.close()  # a signal that came meanwhile is raised here
            yield
        finally:
            if file is not None:
                _release(file, place, shared=shared)


def _release(file: int, place: Path, *, shared: bool) -> None:
    with signals_held():
        with contextlib.suppress(OSError):
            if not shared or take(file):  # the last one that shares it removes it
                place.unlink()
        os.close(file)


def _locked(place: Path, path: Path, *, shared: bool, wait: bool) -> int | None:
    """Open and lock the file. A holder removes it at its end, so a file that is gone by then is opened anew.

    Returns:
        The open file. None if there are no locks here.
    """
    while True:
        file = _opened(place)
        try:
            taken = take(file, shared=shared, wait=wait)
        except OSError:
            os.close(file)
            place.unlink()
            return None
        except BaseException:  # a signal during the wait
            os.close(file)
            raise
        if taken and still_at(file, place):
            with contextlib.suppress(OSError):  # another user's, or a full disk: the lock holds without the number
                os.ftruncate(file, 0)
                os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
            return file
        holder = "" if taken else os.pread(file, 32, 0).decode("ascii", "replace").strip()
        os.close(file)
        if not taken:
            who = f"process {holder}" if holder.isdigit() else "another process"
            raise OutputError(f"{path} is being written by {who}; wait until it ends, or give another name")


def _opened(place: Path) -> int:
    """Open the file of a lock. One of another user need not be written."""
    try:
        return os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        return os.open(place, os.O_RDONLY)


def still_at(file: int, place: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file), place.stat())
    except FileNotFoundError:
        return False
