"""Libraries with operators of other domains. Every session that is opened inside `custom_ops` knows them."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import onnxruntime as ort

from passes.errors import UsageError, first_line

__all__ = ["custom_ops", "libraries", "register"]

_LIBRARIES: ContextVar[tuple[str, ...]] = ContextVar("libraries", default=())


@contextmanager
def custom_ops(*given: str | Path) -> Iterator[None]:
    """Let onnxruntime load the operators of libraries while the `with` block runs.

    >>> with converter.custom_ops("libmy_ops.so"):  # doctest: +SKIP
    ...     converter.convert("model.onnx", "images/")

    Args:
        given: Shared libraries, built for onnxruntime (they export ``RegisterCustomOps``).

    Raises:
        UsageError: There is no such file, or onnxruntime cannot load it.
    """
    paths = tuple(str(Path(library).absolute()) for library in given)
    for library, path in zip(given, paths, strict=True):
        if not Path(path).is_file():
            raise UsageError(f"`custom_ops={library}`: no such file; give a shared library with operators")
        try:
            ort.SessionOptions().register_custom_ops_library(path)
        except Exception as error:  # onnxruntime's exceptions have no common base class
            reason = first_line(error)
            raise UsageError(f"`custom_ops={library}` is no library of operators for onnxruntime: {reason}") from error
    token = _LIBRARIES.set(_LIBRARIES.get() + paths)
    try:
        yield
    finally:
        _LIBRARIES.reset(token)


def libraries() -> tuple[str, ...]:
    """Return the absolute paths of the libraries in use."""
    return _LIBRARIES.get()


def register(options: ort.SessionOptions) -> None:
    """Add the libraries in use to the options of a session."""
    for path in _LIBRARIES.get():
        options.register_custom_ops_library(path)
