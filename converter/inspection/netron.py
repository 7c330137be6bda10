"""Netron for a model file. This process serves it to a browser on the same machine."""

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
    """Serve ``model`` with Netron until the `with` block ends.

    Args:
        model: The model file.
        port: Port on this machine. The default is any free port.
        browse: Whether to open the browser.

    Yields:
        The address of the page.

    Raises:
        UsageError: Netron is not installed.
        ModelError: The file does not exist, or is not an ONNX file.
        OutputError: The port is in use.
    """
    read_onnx(model)
    netron = _netron()
    root, null_handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(null_handler)  # without any handler, Netron would configure logging for the whole process
    try:
        host, used = netron.start(str(model), address=(_HOST, port or 0), browse=browse)
    except OSError as error:
        raise OutputError(f"port {port} cannot be opened: {error.strerror}; give another `port=`, or none") from error
    finally:
        root.removeHandler(null_handler)
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
