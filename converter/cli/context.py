"""What commands do around the one call of the library: options become its arguments, warnings and JSON go out."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from converter.model_io.user_code import Terminated
from passes.errors import ConvertError, UsageError

if TYPE_CHECKING:
    from converter.data.dataset import Dataset
    from converter.data.preprocess import Preprocess
    from converter.model_io.open import ModelFile

__all__ = ["Measuring", "given_preprocess", "keeping", "measuring", "print_json", "state_shape", "warn"]


@dataclass(frozen=True)
class Measuring:
    """Models as files, and the data that they are measured on."""

    files: "list[ModelFile]"
    data: "Dataset"

    @property
    def paths(self) -> list[Path]:
        """Of the files."""
        return [file.path for file in self.files]

    @property
    def names(self) -> list[str]:
        """What the user calls them."""
        return [file.name for file in self.files]


@contextmanager
def measuring(
    models: Sequence[str],
    data: str,
    limit: int | None,
    weights: Path | None,
    input_shape: tuple[int, ...] | None,
    images: dict[str, Any],
) -> Iterator[Measuring]:
    """Models, exported where they are factories, and data for them; with the warnings that go with both."""
    from converter.data.preprocess_checks import questions
    from converter.evaluation.shared_data import load_for
    from converter.model_io.open import model_files, suggesting_shape

    preprocess = given_preprocess(**images)
    shape = state_shape(models, input_shape)
    with model_files(models, weights=weights, input_shape=input_shape) as files:
        with suggesting_shape(shape):
            dataset = load_for(files, data, preprocess, limit)
        for question in questions([dataset]):
            warn(question)
        yield Measuring(files, dataset)


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


def state_shape(models: Sequence[str], input_shape: tuple[int, ...] | None) -> str:
    """Say which input shape is assumed where one is needed and was not given; returns it."""
    from converter.model_io.open import assumed_shape

    shape = assumed_shape(models, input_shape)
    warn(shape and f"inputs are assumed to be {shape}; --input-shape gives another")
    return shape


def warn(message: str) -> None:
    """One line on stderr; nothing for an empty message."""
    if message:
        click.echo(f"Warning: {message}", err=True)


def print_json(content: dict[str, Any]) -> None:
    """To stdout, as JSON that any reader takes."""
    click.echo(json.dumps(content, indent=2, allow_nan=False))
