"""The last gate for malformed models: what fails on one of them is a fault of the model, not of this program."""

import contextlib
from collections.abc import Iterator

from passes.errors import ConvertError, ModelError, first_line

__all__ = ["refusing_malformed"]


@contextlib.contextmanager
def refusing_malformed(name: str) -> Iterator[None]:
    """Refuse a model on which the `with` block, which reads it, fails.

    onnx's checker, its inliner and its shape inference do not find every malformed message, nor agree on the exceptions
    that they raise.

    Args:
        name: Name of the model in the message.

    Raises:
        ModelError: The block failed. Errors of our own pass through.
    """
    try:
        yield
    except (ConvertError, MemoryError, OSError):
        raise
    except Exception as error:
        message = (
            f"{name} cannot be read as an ONNX model: {first_line(error) or type(error).__name__}; export it again"
        )
        raise ModelError(message) from error
