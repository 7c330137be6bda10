"""Steps that commands share: options become arguments, JSON is printed, interruptions get a note."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from converter.model_io.user_code import Terminated
from passes.errors import ConvertError, UsageError

if TYPE_CHECKING:
    from converter.data.preprocess import Preprocess

__all__ = ["given_preprocess", "keeping", "print_json", "warn"]

_LOG = logging.getLogger(__name__)


def given_preprocess(**fields: Any) -> "Preprocess":
    """Return the preprocessing of the options.

    Raises:
        UsageError: The options make no sense together.
    """
    from converter.data.preprocess import Preprocess

    try:
        return Preprocess(**fields)
    except ConvertError as error:
        raise UsageError(str(error)) from error


@contextmanager
def keeping(path: Path) -> Iterator[None]:
    """Add a note on the state in ``path`` if the user stops the `with` block, which saves its state there."""
    before = _times(path)
    try:
        yield
    except (KeyboardInterrupt, Terminated) as stopped:
        if _times(path) != before:
            stopped.add_note(f"{path} has the work so far; the same command continues from there")
        elif before:
            stopped.add_note(f"{path} is unchanged")
        else:
            stopped.add_note(f"there was nothing to keep in {path} yet")
        raise


def _times(path: Path) -> frozenset[tuple[Path, int]]:
    """Return files and their modification times: the file itself, or the files in the subfolders of a folder."""
    files = [path, *path.glob("*/*")]
    return frozenset((file, file.stat().st_mtime_ns) for file in files if file.is_file())


def warn(message: str) -> None:
    """Log a warning, as the library does."""
    _LOG.warning(message)


def print_json(content: dict[str, Any]) -> None:
    """Print standard JSON, without NaN or infinity, to stdout."""
    click.echo(json.dumps(content, indent=2, allow_nan=False))
