"""Table of a search for a budget: one row for each attempt, with its results."""

from rich.table import Table

from converter.display.numbers import NOTHING, decibels, lost, milliseconds, size
from converter.pipeline.search_record import Search
from converter.report.table import plain_table, row

__all__ = ["search_tables"]


def search_tables(search: Search | None) -> list[Table]:
    """Build the table of attempts, one row for each. The list is empty without a search."""
    if search is None:
        return []
    columns = [
        "attempt",
        "bits per weight",
        "file",
        "drop",
        "counted",
        "expected",
        "SQNR",
        "predicted",
        "latency",
        "time",
    ]
    table = plain_table(f"Search within {search.budget}", [*columns, "budget"], numbers=range(1, 10))
    for index, attempt in enumerate(search.attempts):
        row(
            table,
            attempt.name,
            f"{attempt.mean_bits:.2f}",
            size(attempt.bytes),
            lost(attempt.drop),
            NOTHING if attempt.counted_drop is None else f"{attempt.counted_drop:.2f} ± {attempt.drop_error:.2f}",
            lost(attempt.expected_drop, ""),
            decibels(attempt.sqnr_db),
            decibels(attempt.predicted_db),
            milliseconds(attempt.latency_ms),
            f"{attempt.seconds:.0f} s",
            "kept" if index == search.kept else attempt.broken or "within",
        )
    source = f"judged on {search.held_out:,} held-out samples"
    drop = (
        f"; drop of {search.drop_of}: mean of counted and expected, weighted by their errors" if search.drop_of else ""
    )
    table.caption = source + drop
    return [table]
