"""Netron for a model. This process serves it to a browser on the same machine."""

import contextlib
import importlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from converter.model_io.load import read_onnx
from converter.model_io.open import ExportOptions, model_files
from passes.errors import OutputError, UsageError

__all__ = ["view"]

_HOST = "localhost"


@contextlib.contextmanager
def view(
    model: Any,
    *,
    port: int | None = None,
    browse: bool = True,
    export: ExportOptions = ExportOptions(),  # noqa: B008  (frozen)
) -> Iterator[str]:
    """Show a model in Netron until the `with` block ends.

    >>> import converter
    >>> with converter.view("model.onnx") as address:  # doctest: +SKIP
    ...     input(f"{address}: press Enter to stop")

    Args:
        model: Path of an .onnx file, ``FILE.py:FACTORY``, an onnx.ModelProto or a torch module.
        port: Port on this machine. The default is any free port.
        browse: Whether to open the browser.
        export: Weights and input shape of a torch model.

    Yields:
        The address of the page.

    Raises:
        UsageError: Netron is not installed.
        ModelError: The file does not exist, or is not an ONNX file.
        OutputError: The port is in use.
        ConvertError: Any other error that a user can correct.
    """
    with model_files([model], export) as (file,):
        read_onnx(file.path)
        with _served(file.path, port, browse) as address:
            yield address


@contextlib.contextmanager
def _served(model: Path, port: int | None, browse: bool) -> Iterator[str]:
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
