"""What is wrong with a file that is to be read, in words of our own and not in those of a library."""

import stat
import zipfile
from pathlib import Path

__all__ = ["is_utf8", "npz_fault", "special_kind"]

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def special_kind(path: Path) -> str | None:
    """Return what a path is if it is neither a file nor a folder. Reading it might wait forever."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), None)


def is_utf8(path: Path) -> bool:
    """Whether onnxruntime can open a path. It takes names in UTF-8 only."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def npz_fault(path: Path, error: Exception) -> str:
    """Return why an .npz file could not be read.

    Args:
        path: The file.
        error: What numpy raised. A damaged archive raises errors of many types.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    with path.open("rb") as file:
        head = file.read(6)
    if not head:
        return "it is empty"
    if head == b"\x93NUMPY":
        return "it is a single array in the form of .npy; np.savez(..., x=array) makes an .npz file"
    if not head.startswith(b"PK"):
        return "it is not an .npz archive; np.savez(..., x=array) makes one"
    if not zipfile.is_zipfile(path):
        return "it is truncated; write it again"
    if isinstance(error, ValueError) and "Object arrays" in str(error):
        return "it has an array of Python objects; save arrays of numbers"
    return "it is damaged; write it again"
