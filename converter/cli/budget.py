"""The command `convert` with and without a budget: the library call, and the folder of its work."""

import contextlib
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import converter
from converter.cli.context import keeping, warn
from converter.model_io.user_code import Terminated
from passes.errors import BudgetError, ConvertError, OutputError, UsageError

if TYPE_CHECKING:
    from converter.budget.limits import Budget
    from converter.engine.workers import Workers
    from converter.pipeline.result import Result

__all__ = ["convert_for", "work_folder"]

_UNASKED = {
    "exclude": "a search quantizes every layer",
    "bits": "a search chooses the bits of every layer",
}


@contextmanager
def work_folder(budget: "Budget | None", cache: Path | None, output: Path) -> Iterator[Path]:
    """Yield the folder for what a conversion or a search finds: ``cache``, or else a folder beside the output.

    The folder beside the output is removed when the work has ended, with or without a file, and when it was refused.
    That of a search stays after a signal or a full disk, and that of a conversion after a signal, if layers are solved.
    Both also stay if they are from interrupted work and this one ends without a file.
    Several processes may share a ``cache``, but not the folder of one that will remove it.

    Raises:
        OutputError: The folder is used by another process, or cannot be written.
    """
    from converter.cache.folder import forget, holds_something, used

    if budget is None and cache is None:
        with _own_folder(output.with_suffix(".work")) as folder:
            yield folder
        return
    folder = cache or output.with_suffix(".search")
    with keeping(folder), used(folder, shared=cache is not None):
        if cache is not None:
            yield cache
            return

        existed, ended = holds_something(folder), False
        if existed:
            warn(f"{folder} has measurements of an earlier search; those that fit this search are used again")
        try:
            yield folder
            ended = True
        except OutputError:
            raise
        except ConvertError:
            ended = not existed
            raise
        finally:
            if ended or not holds_something(folder):
                forget(folder)


@contextmanager
def _own_folder(folder: Path) -> Iterator[Path]:
    """Yield the folder of one conversion, which the lock of its output guards. It exists from the first entry on.

    It is removed at the end, unless a signal comes when layers are solved, or an earlier run has left it and this one
    fails.
    """
    from converter.cache.folder import forget, holds_something

    stays = holds_something(folder)
    if stays:
        warn(f"{folder} has measurements of an earlier conversion; those that fit this conversion are used again")
    try:
        yield folder
        stays = False
    except (KeyboardInterrupt, Terminated) as stopped:
        stays = any(folder.glob("*/layer-*.npz"))
        if stays:
            stopped.add_note(f"{folder} has the work so far; the same command continues from there")
        raise
    finally:
        if not stays:
            forget(folder)
            with contextlib.suppress(OSError):  # it contains something else, or nothing was kept
                folder.rmdir()


def convert_for(
    budget: "Budget | None",
    cache: Path,
    workers: "Workers",
    model: str,
    calibration: str | None,
    recipe: str | None,
    **settings: Any,
) -> "Result":
    """Call `converter.convert`, or `converter.convert_within` if there is a budget.

    If no file is within the budget, print the attempts.

    Args:
        budget: Budget. None if there is none.
        cache: Folder for what is found on the way.
        workers: Processes that share the measurements.
        model, calibration, recipe, settings: As in both functions.

    Raises:
        UsageError: There is a choice of layers with a budget.
        BudgetError: No file is within the budget.
    """
    from converter.pipeline.search_record import Search
    from converter.recipes.builtin import AUTO
    from converter.report.search import search_tables
    from converter.report.table import show

    if budget is None:
        settings["settings"] = dataclasses.replace(settings["settings"], cache=cache)
        return converter.convert(model, calibration, recipe=recipe or "int8", workers=workers, **settings)
    for option, reason in _UNASKED.items():
        if settings.pop(option):
            raise UsageError(f"--{option.replace('_', '-')} has no effect with a budget: {reason}; leave it out")
    try:
        return converter.convert_within(
            model, calibration, budget, recipe=recipe or AUTO, cache=cache, workers=workers, **settings
        )
    except BudgetError as error:
        if isinstance(error.search, Search):
            show(search_tables(error.search))
        raise
