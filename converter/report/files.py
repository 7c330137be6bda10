"""Reports as files: .json for programs, .html for people. Written whole or not at all."""

import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from converter.save import prepare_output
from passes.errors import OutputError, UsageError

__all__ = ["REPORT_SUFFIXES", "check_suffix", "write_report"]

REPORT_SUFFIXES = (".json", ".html")
_WIDTH = 100
_SEPARATOR = "\0"
_CSS = """
body { margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #1f2328; background: #ffffff; }
h1 { font: 600 1.3rem system-ui, sans-serif; }
pre { overflow-x: auto; font: 0.85rem/1.35 Menlo, Consolas, "DejaVu Sans Mono", monospace; }
"""


def check_suffix(path: Path) -> None:
    """Refuse a report that is neither .json nor .html.

    Raises:
        UsageError: quotes the suffix.
    """
    if path.suffix not in REPORT_SUFFIXES:
        raise UsageError(f"{path}: a report is a {' or '.join(REPORT_SUFFIXES)} file, not {path.suffix or 'this'!r}")


def write_report(path: Path, title: str, content: Mapping[str, Any], tables: Sequence[RenderableType]) -> None:
    """Write ``content`` as .json, or ``tables`` as one self-contained .html page, by the path's suffix.

    Raises:
        UsageError: as `check_suffix`.
        OutputError: the file cannot be written; an existing one stays as it was.
    """
    check_suffix(path)
    text = json.dumps(content, indent=2, allow_nan=False) + "\n" if path.suffix == ".json" else _page(title, tables)
    _write(path, text)


def _page(title: str, tables: Sequence[RenderableType]) -> str:
    wide = Console(file=io.StringIO(), width=10_000)
    width = max([_WIDTH, *(wide.measure(table).maximum for table in tables)])
    console = Console(record=True, file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor")
    for table in tables:
        console.print(table)
    exported = console.export_html(code_format=f"{{stylesheet}}{_SEPARATOR}{{code}}", inline_styles=False)
    styles, code = exported.split(_SEPARATOR)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="UTF-8">\n<title>{escape(title)}</title>\n'
        f"<style>{_CSS}{styles}\n</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"<pre><code>{code}</code></pre>\n</body>\n</html>\n"
    )


def _write(path: Path, text: str) -> None:
    target = prepare_output(path)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent) as folder:
            written = Path(folder) / target.name
            written.write_text(text, encoding="utf-8")
            written.replace(target)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; give another report name") from error
