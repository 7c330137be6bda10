"""What commands do around the one call of the library: options become its arguments, JSON goes out."""

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


def given_preprocess(
    mean: tuple[float, ...] | None, std: tuple[float, ...] | None, resize: int | None, crop: int | None
) -> "Preprocess":
    """The preprocessing that the options ask for. Raises UsageError for one that cannot be meant."""
    from converter.data.preprocess import Preprocess

    try:
        return Preprocess(mean=mean, std=std, resize=resize, crop=crop)
    except ConvertError as error:
        raise UsageError(str(error)) from error


@contextmanager
def keeping(place: Path) -> Iterator[None]:
    """Work that keeps in a file or folder how far it has come: whoever stops it is told how it goes on."""
    before = _times(place)
    try:
        yield
    except (KeyboardInterrupt, Terminated) as stopped:
        if _times(place) != before:
            stopped.add_note(f"{place} keeps what was done; the same command goes on from there")
        elif before:
            stopped.add_note(f"{place} is as it was")
        else:
            stopped.add_note(f"there was nothing yet to keep in {place}")
        raise


def _times(place: Path) -> frozenset[tuple[Path, int]]:
    """The file, or those in the folders of a folder, and when each was written."""
    files = [place, *place.glob("*/*")]
    return frozenset((file, file.stat().st_mtime_ns) for file in files if file.is_file())


def warn(message: str) -> None:
    """Warn as the library does."""
    _LOG.warning(message)


def print_json(content: dict[str, Any]) -> None:
    """To stdout, as JSON that any reader takes."""
    click.echo(json.dumps(content, indent=2, allow_nan=False))
