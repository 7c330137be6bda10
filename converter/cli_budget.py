"""`convert` with a budget and without: which library function does it, and what is shown where none holds."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.cli_context import keeping
from passes.errors import BudgetError, UsageError

if TYPE_CHECKING:
    from converter.budget import Budget
    from converter.result import Result

__all__ = ["convert_for"]

_UNASKED = {
    "exclude": "a search quantizes every layer",
    "bits": "a search chooses the bits of every layer",
    "measure_speed": "a search leaves layers in float where int8 misses --max-latency and that helps, and nowhere else",
}


def convert_for(
    budget: "Budget | None",
    cache: Path | None,
    model: str,
    calibration: str | None,
    recipe: str | None,
    **settings: Any,
) -> "Result":
    """`converter.convert`, or `converter.convert_within` where there is a budget; the ladder is shown if none holds.

    Raises:
        UsageError: a cache without a budget, or a choice of layers with one.
        BudgetError: no file keeps the budget.
    """
    from converter.attempt import Search
    from converter.convert import convert
    from converter.recipe import AUTO
    from converter.report.search import search_tables
    from converter.report.table import show

    if budget is None:
        if cache is not None:
            raise UsageError(f"--cache {cache} keeps what a search for a budget measured; give one, such as --max-drop")
        return convert(model, calibration, recipe=recipe or "int8", **settings)
    from converter.budget import convert_within

    for option, reason in _UNASKED.items():
        if settings.pop(option):
            raise UsageError(f"--{option.replace('_', '-')} has no use with a budget: {reason}; leave it out")
    try:
        with nullcontext() if cache is None else keeping(cache):
            return convert_within(model, calibration, budget, recipe=recipe or AUTO, cache=cache, **settings)
    except BudgetError as error:
        if isinstance(error.search, Search):
            show(search_tables(error.search))
        raise
