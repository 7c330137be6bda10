"""`convert` with a budget and without: which library function does it, what it keeps, and what is shown in the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import converter
from converter.cli.context import keeping, warn
from passes.errors import BudgetError, ConvertError, OutputError, UsageError

if TYPE_CHECKING:
    from converter.budget.limits import Budget
    from converter.pipeline.result import Result

__all__ = ["convert_for", "search_folder"]

_UNASKED = {
    "exclude": "a search quantizes every layer",
    "bits": "a search chooses the bits of every layer",
}


@contextmanager
def search_folder(budget: "Budget | None", cache: Path | None, output: Path) -> Iterator[Path | None]:
    """Where a search keeps what it measures, until its file is written: ``cache``, or else a folder beside the output.

    That folder goes when the search has ended, with a file or without, and where it was refused. It stays after a
    signal or a full disk, and what ends without a file takes nothing from an earlier run that was stopped.
    """
    if budget is None:
        yield cache
        return
    place = cache or output.with_suffix(".search")
    with keeping(place):
        if cache is not None:
            yield cache
            return
        from converter.budget.cache import forget, holds_something

        had, ended = place.exists(), False
        if had and holds_something(place):
            warn(f"what an earlier search measured is in {place}; what fits this one is not measured again")
        try:
            yield place
            ended = True
        except OutputError:
            raise
        except ConvertError:
            ended = not had
            raise
        finally:
            if ended or not holds_something(place):
                forget(place)


def convert_for(
    budget: "Budget | None",
    cache: Path | None,
    model: str,
    calibration: str | None,
    recipe: str | None,
    **settings: Any,
) -> "Result":
    """`converter.convert`, or `converter.convert_within` where there is a budget; the ladder is shown if none holds.

    Args:
        budget: None: there is none.
        cache: folder of what a search measures.
        model, calibration, recipe, settings: as both have them.

    Raises:
        UsageError: a cache without a budget, or a choice of layers with one.
        BudgetError: no file keeps the budget.
    """
    from converter.pipeline.search_record import Search
    from converter.recipes.builtin import AUTO
    from converter.report.search import search_tables
    from converter.report.table import show

    if budget is None:
        if cache is not None:
            raise UsageError(f"--cache {cache} keeps what a search for a budget measured; give one, such as --max-drop")
        return converter.convert(model, calibration, recipe=recipe or "int8", **settings)
    for option, reason in _UNASKED.items():
        if settings.pop(option):
            raise UsageError(f"--{option.replace('_', '-')} has no use with a budget: {reason}; leave it out")
    try:
        return converter.convert_within(model, calibration, budget, recipe=recipe or AUTO, cache=cache, **settings)
    except BudgetError as error:
        if isinstance(error.search, Search):
            show(search_tables(error.search))
        raise
