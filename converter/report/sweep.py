"""A sweep as a table in the terminal, and as files: .json and .csv for programs, .html for people."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from converter.pipeline.sweep_record import Sweep
from converter.report.files import indented_json, write_text
from converter.report.page.render import require_page
from converter.report.page.sweep_page import render_sweep
from converter.report.table import plain_table, row
from passes.errors import UsageError

__all__ = ["SWEEP_SUFFIXES", "check_sweep", "sweep_table", "write_sweep"]

SWEEP_SUFFIXES = (".json", ".csv", ".html")


def sweep_table(sweep: Sweep) -> RenderableType:
    """Build the table of all rows. A failed one shows its reason."""
    glance = sweep.overview()
    measured = next((each.measure for each in sweep.done if each.measure is not None), None)
    columns = [*glance.columns[:4], *([] if measured is None else [measured.name]), *glance.columns[4:]]
    table = plain_table("", columns, numbers=range(3, len(columns) - 1))
    for cells, each in zip(glance.rows, sweep.rows, strict=True):
        shown = [] if measured is None else [measured.shown(each.metric)]
        row(table, *cells[:4], *shown, *cells[4:-1], cells[-1])
    table.caption = "\n".join(glance.notes)
    return table


def check_sweep(path: Path) -> None:
    """Check, before any work, that results of a sweep can be written.

    Raises:
        UsageError: The suffix is none of .json, .csv and .html, or the packages for .html are not installed.
    """
    if path.suffix not in SWEEP_SUFFIXES:
        wanted = f"{', '.join(SWEEP_SUFFIXES[:-1])} or {SWEEP_SUFFIXES[-1]}"
        raise UsageError(f"{path}: results of a sweep are a {wanted} file, not {path.suffix or 'this'!r}")
    if path.suffix == ".html":
        require_page(path)


def write_sweep(sweep: Sweep, path: str | Path) -> None:
    """Write the results of a sweep: .json and .csv for programs, .html with plots for people.

    Args:
        sweep: The sweep.
        path: File. Its suffix decides the format.

    Raises:
        UsageError: The suffix is another one, or the extra `report` for .html is not installed.
        OutputError: The file cannot be written. An existing file stays as it was.
    """
    path = Path(path)
    check_sweep(path)
    if path.suffix == ".html":
        text = render_sweep(sweep)
    else:
        text = indented_json(sweep.to_json()) if path.suffix == ".json" else _csv(sweep)
    write_text(path, text)


def _csv(sweep: Sweep) -> str:
    rows = [_flat(each) for each in sweep.to_json()["rows"]]
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without nested values. Several texts become one."""
    measure = values["measure"] or {"name": "", "unit": ""}
    flat = {key: "; ".join(each) if isinstance(each, list) else each for key, each in values.items()}
    return {key: each for key, each in flat.items() if key != "measure"} | {
        "metric_name": measure["name"],
        "metric_unit": measure["unit"],
    }
