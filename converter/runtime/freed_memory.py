"""Keeping freed memory for the next array, on Linux.

A conversion allocates and frees matrices of up to 100 MB many times. glibc returns each of them to the system, which
then has to clear new pages for the next one. That took an eighth of the processor time of ResNet-18's `int4`. The
setting holds for the whole process, so the command makes it and the library does not.
"""

import ctypes
import platform

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of parameters in glibc's malloc.h
_LARGEST = 1 << 28  # bytes: larger blocks are few, and are returned at once


def keep_freed_memory() -> bool:
    """Let the process reuse freed blocks of up to 256 MB, and return the rest of them only from 256 MB on.

    Returns:
        Whether it was set. It is not on other systems, nor with another C library.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(parameter, _LARGEST) == 1 for parameter in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))
