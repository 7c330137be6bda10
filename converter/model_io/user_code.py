"""Calls of the user's own code. Whatever it raises, including sys.exit(), becomes one error of one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from passes.errors import ConvertError

__all__ = ["Terminated", "described", "user_code"]


class Terminated(SystemExit):
    """Raised on SIGTERM. It unwinds the stack, so temporary files are deleted. No `except` clause may swallow it."""


@contextmanager
def user_code(what: str, error_type: type[ConvertError]) -> Iterator[None]:
    """Turn an exception in the block into `error_type`: "`what` raised ValueError: why (file.py, line 3)"."""
    try:
        yield
    except Terminated:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise error_type(f"{what} raised {described(error)}") from error


def described(error: BaseException) -> str:
    """Describe an exception: "ValueError: why (file.py, line 3)"."""
    where = ""
    frame = error.__traceback__
    while frame is not None:
        where = f" ({Path(frame.tb_frame.f_code.co_filename).name}, line {frame.tb_lineno})"
        frame = frame.tb_next
    return f"{type(error).__name__}: {error}" + ("" if isinstance(error, SyntaxError) else where)
