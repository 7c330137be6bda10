"""Netron on a file: served from this process to the browser of the same machine."""

import contextlib
import importlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from converter.model_io.load import read_onnx
from passes.errors import OutputError, UsageError

__all__ = ["served"]

_HOST = "localhost"


@contextlib.contextmanager
def served(model: Path, *, port: int | None = None, browse: bool = True) -> Iterator[str]:
    """The address at which Netron shows ``model``, until the `with` block ends.

    Raises:
        UsageError: Netron is not installed.
        ModelError: no such file, or not an ONNX file.
        OutputError: the port is taken.
    """
    read_onnx(model)
    netron = _netron()
    root, no_progress = logging.getLogger(), logging.NullHandler()
    root.addHandler(no_progress)  # Netron sets logging up for the whole process where nothing has
    try:
        host, used = netron.start(str(model), address=(_HOST, port or 0), browse=browse)
    except OSError as error:
        raise OutputError(f"port {port} cannot be opened: {error.strerror}; give another --port, or none") from error
    finally:
        root.removeHandler(no_progress)
    try:
        yield f"http://{host}:{used}"
    finally:
        netron.stop((host, used))


def _netron() -> Any:
    try:
        return importlib.import_module("netron")
    except ModuleNotFoundError as error:
        raise UsageError(
            "Netron is not installed; pip install convert-onnx[view], or drop the file on https://netron.app"
        ) from error
