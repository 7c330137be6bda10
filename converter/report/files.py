"""Report files: .json for programs, .html for people. A file is written completely or not at all."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter.model_io.save import prepare_output
from converter.model_io.scratch import replacing
from converter.pipeline.result import Result
from converter.report.facts import report_facts
from converter.report.page.render import render, require_page
from passes.errors import OutputError, UsageError

__all__ = ["REPORT_SUFFIXES", "check_report", "indented_json", "write_facts", "write_report", "write_text"]

REPORT_SUFFIXES = (".json", ".html")
_NUMBERS = re.compile(r"\[\n\s+([^\[\]{}\"]*?)\n\s+\]")  # no string holds a line feed


def check_report(path: Path) -> None:
    """Check, before any work, that the report can be written.

    Args:
        path: Report file.

    Raises:
        UsageError: The suffix is neither .json nor .html, or the packages for .html are not installed.
    """
    if path.suffix not in REPORT_SUFFIXES:
        raise UsageError(f"{path}: a report is a {' or '.join(REPORT_SUFFIXES)} file, not {path.suffix or 'this'!r}")
    if path.suffix == ".html":
        require_page(path)


def write_report(result: Result, path: str | Path, *, model: str = "model", output: str = "output") -> None:
    """Write a report of a conversion: .json for programs, .html for people.

    Args:
        result: The conversion.
        path: Report file. Its suffix decides the format.
        model: Name of the model that was converted, for the report.
        output: Name of the file that was written, for the report.

    Raises:
        UsageError: The suffix is neither .json nor .html, or the extra `report` for .html is not installed.
        OutputError: The file cannot be written. An existing file stays as it was.
    """
    write_facts(Path(path), report_facts(result, model=model, output=output))


def write_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Write the facts as .json or as one .html page. The suffix of the path decides which.

    Args:
        path: Report file.
        facts: Values of `converter.report.facts.report_facts`.

    Raises:
        UsageError: `check_report` refuses the path.
        OutputError: The file cannot be written. An existing file stays as it was.
    """
    check_report(path)
    write_text(path, indented_json(facts) if path.suffix == ".json" else render(facts))


def write_text(path: Path, text: str) -> None:
    """Write a report completely or not at all.

    Raises:
        OutputError: The file cannot be written. An existing file stays as it was.
    """
    target = prepare_output(path)
    try:
        with replacing(target) as written:
            written.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; give another report name") from error


def indented_json(facts: Mapping[str, Any]) -> str:
    """Return indented JSON. Each list of numbers is on one line."""
    text = json.dumps(facts, indent=2, allow_nan=False)
    return _NUMBERS.sub(lambda numbers: f"[{' '.join(numbers[1].split())}]", text) + "\n"
