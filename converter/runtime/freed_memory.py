"""Keeping freed memory for the next array, on Linux.

A conversion allocates and frees matrices of up to 100 MB many times. glibc returns each of them to the system, which
then has to clear new pages for the next one (docs/design/cost.md). The setting holds for the whole process, so the
command makes it and the library does not. A model of 1.6 GB took 8.8 GB with it, and 5.7 GB without, so it is for small
models.
"""

import ctypes
import os
import platform
from pathlib import Path

from passes.errors import ConvertError

__all__ = ["is_small", "keep_freed_memory", "kept_by_children"]

_SMALL = 1 << 28  # bytes of a model; what is kept of a larger one would take several times its size

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of parameters in glibc's malloc.h
_LARGEST = 1 << 28  # bytes: larger blocks are few, and are returned at once
_LARGEST_OF_OLD = 1 << 25  # the most that older versions of glibc take
_VARIABLES = {_MMAP_THRESHOLD: "MALLOC_MMAP_THRESHOLD_", _TRIM_THRESHOLD: "MALLOC_TRIM_THRESHOLD_"}
_OF_USER = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")


_taken: dict[int, int] = {}  # parameters that this process has set


def is_small(*files: str | Path | None) -> bool:
    """Return whether the given files have at most 256 MB together, with the data files that models name.

    Args:
        files: Files of a model and its weights. None, and what is no file, counts as nothing. With a file that cannot
            be read, the answer is no: what opens it says why.
    """
    from converter.model_io.structure import model_bytes

    try:
        paths = [Path(each) for each in files if each is not None and Path(each).is_file()]
        sizes = [model_bytes(path) if path.suffix == ".onnx" else path.stat().st_size for path in paths]
    except (ConvertError, OSError):
        return False
    return sum(sizes) <= _SMALL


def keep_freed_memory() -> bool:
    """Let the process reuse freed blocks of up to 256 MB (32 MB with older versions of glibc).

    Returns:
        Whether it was set. It is not on other systems, with another C library, or if the environment sets the
        allocator.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _OF_USER):
        return False
    libc = ctypes.CDLL(None)
    # The first is the one that may be refused. The second alone would fix the first at 128 KB, and do harm.
    most = next((most for most in (_LARGEST, _LARGEST_OF_OLD) if libc.mallopt(_MMAP_THRESHOLD, most) == 1), None)
    if most is None or libc.mallopt(_TRIM_THRESHOLD, _LARGEST) != 1:
        return False
    _taken.update({_MMAP_THRESHOLD: most, _TRIM_THRESHOLD: _LARGEST})
    return True


def kept_by_children() -> dict[str, str]:
    """Return the environment variables that let a child process keep freed memory as this process does.

    They are none if this process does not.
    """
    return {_VARIABLES[parameter]: str(value) for parameter, value in _taken.items()}
