"""Reports as files: .json for programs, .html for people. Written whole or not at all."""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter.model_io.save import prepare_output
from converter.pipeline.result import Result
from converter.report.facts import report_facts
from converter.report.page.render import render, require_page
from passes.errors import OutputError, UsageError

__all__ = ["REPORT_SUFFIXES", "check_report", "write_facts", "write_report"]

REPORT_SUFFIXES = (".json", ".html")
_NUMBERS = re.compile(r"\[\n\s+([^\[\]{}\"]*?)\n\s+\]")  # no string holds a line feed


def check_report(path: Path) -> None:
    """Refuse, before any work, a report that could not be made.

    Raises:
        UsageError: neither .json nor .html, or an .html whose packages are not installed.
    """
    if path.suffix not in REPORT_SUFFIXES:
        raise UsageError(f"{path}: a report is a {' or '.join(REPORT_SUFFIXES)} file, not {path.suffix or 'this'!r}")
    if path.suffix == ".html":
        require_page(path)


def write_report(result: Result, path: str | Path, *, model: str = "model", output: str = "output") -> None:
    """Write a report of a conversion: .json for programs, .html for people.

    Args:
        result: the conversion.
        path: where the report goes; its suffix says which form.
        model: what the report calls the model that was converted.
        output: what the report calls the file that was written.

    Raises:
        UsageError: neither .json nor .html, or an .html without the extra `report`.
        OutputError: the file cannot be written; an existing one stays as it was.
    """
    write_facts(Path(path), report_facts(result, model=model, output=output))


def write_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Write the facts as .json, or as one .html page, by the path's suffix.

    Raises:
        UsageError: as `check_report`.
        OutputError: the file cannot be written; an existing one stays as it was.
    """
    check_report(path)
    _write(path, _json(facts) if path.suffix == ".json" else render(facts))


def _write(path: Path, text: str) -> None:
    target = prepare_output(path)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent) as folder:
            written = Path(folder) / target.name
            written.write_text(text, encoding="utf-8")
            written.replace(target)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; give another report name") from error


def _json(facts: Mapping[str, Any]) -> str:
    """Indented, each list of numbers on one line."""
    text = json.dumps(facts, indent=2, allow_nan=False)
    return _NUMBERS.sub(lambda numbers: f"[{' '.join(numbers[1].split())}]", text) + "\n"
