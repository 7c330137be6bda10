"""Folder of a sweep for the work in progress, which only a sweep writes and removes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from passes.errors import OutputError

__all__ = ["work_folder"]

_NAME, _MARKER = ".work", "of-a-sweep"


@contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """Yield the folder for the work in progress. It is removed at the end, and stays after an error for the next call.

    Args:
        folder: Folder of the sweep.

    Raises:
        OutputError: There is something of that name that no sweep made, or it cannot be written.
    """
    work = folder / _NAME
    marker = work / _MARKER
    try:
        if (work.exists() or work.is_symlink()) and not marker.is_file() and (not work.is_dir() or any(work.iterdir())):
            raise OutputError(f"{work} is not of a sweep, which would remove it; move it, or give another folder")
        work.mkdir(exist_ok=True)
        marker.touch()
    except OSError as error:
        raise OutputError(f"{work} cannot be written: {error.strerror}; give another folder") from error
    yield work
    shutil.rmtree(work, ignore_errors=True)
