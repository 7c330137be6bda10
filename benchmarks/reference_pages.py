"""Writer of the guide's reference pages (docs/reference/*.md) from docstrings, fields and --help.

    python -m benchmarks.reference_pages [--out DIR] [--check]

Nothing on these pages is written by hand. A test compares the sections of the committed pages with the output of this
module. A section that is not committed yet, such as that of a new pass, is no error: `--check` lists it.
"""

import argparse
import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner

import converter
from benchmarks.shared_data import ROOT
from converter.cli.main import cli
from converter.recipes.builtin import RECIPES
from converter.recipes.registry import PASSES
from converter.recipes.toml_template import meanings
from converter.targets.catalog import TARGETS
from converter.targets.target import Target
from passes import errors
from passes.base import Stage
from passes.ir.rules import Rules

__all__ = ["main", "missing", "outdated", "pages"]

_NOTE = "<!-- Written by `python -m benchmarks.reference_pages` from the code; do not edit. -->\n"
_WIDTH = 100


def pages() -> dict[str, str]:
    """Return every page by its file name."""
    return {
        "commands.md": _commands(),
        "passes.md": _passes(),
        "targets.md": _targets(),
        "python.md": _python(),
    }


def _commands() -> str:
    parts = [_NOTE, "# Commands\n", _fenced(_help())]
    for name in sorted(cli.commands):
        parts += [f"\n## {name}\n", _fenced(_help(name))]
    return "\n".join(parts)


def _help(*command: str) -> str:
    done = CliRunner().invoke(cli, [*command, "--help"], prog_name="convert-onnx", terminal_width=_WIDTH)
    return "\n".join(line.rstrip() for line in done.output.rstrip().splitlines())


def _passes() -> str:
    parts = [
        _NOTE,
        "# Recipes and passes\n",
        "A recipe is TOML: its own fields, `[preprocess]`, and `[[passes]]` in order. `convert-onnx recipes "
        "--show NAME` prints a whole one.\n",
        "## Built in\n",
        _table(
            ("recipe", "what", "passes", "storage"),
            [
                (
                    f"`{each.name}`",
                    each.description,
                    ", ".join(f"`{step.name}`" for step in each.passes),
                    f"`{each.storage}`",
                )
                for each in RECIPES.values()
            ],
        ),
        "\n## Fields of a recipe\n",
        _fields(converter.Recipe),
        "\n## Fields of `[preprocess]`\n",
        _fields(converter.Preprocess),
    ]
    for stage in Stage:
        kinds = [kind for kind in PASSES.values() if kind.stage == stage]
        if kinds:
            parts.append(f"\n## Stage {int(stage)}: {stage.name.lower()}\n")
        for kind in kinds:
            parts += [f"### `{kind.name}`\n", _summary(kind) + "\n", _fields(kind)]
    return "\n".join(parts)


def _targets() -> str:
    parts = [_NOTE, "# Targets\n", "`convert-onnx targets NAME` prints each fact with its source.\n"]
    rules = meanings(Rules)
    known = meanings(Target) | rules
    for target in TARGETS.values():
        parts += [f"## `{target.name}`\n", f"{target.description}. Runtime: {target.runtime}.\n"]
        facts = {each.name: getattr(target.rules, each.name) for each in dataclasses.fields(Rules)}
        facts |= {
            each.name: getattr(target, each.name)
            for each in dataclasses.fields(Target)
            if each.name not in {"name", "description", "rules", "runtime", "sources"}
        }
        parts.append(
            _table(
                ("fact", "value", "what it is"),
                [(f"`{name}`", _shown(value), known.get(name, "")) for name, value in facts.items()],
            )
        )
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _python() -> str:
    exported = {name: getattr(converter, name) for name in converter.__all__}
    functions = [name for name, each in exported.items() if inspect.isfunction(each)]
    values = [name for name, each in exported.items() if inspect.isclass(each) and not issubclass(each, Exception)]
    parts = [_NOTE, "# Python API\n", "`import converter` gives all of it.\n", "## Functions\n"]
    parts += [_entry(name, exported[name]) for name in functions]
    parts += ["## Values\n", *(_entry(name, exported[name]) for name in values)]
    parts += [
        "## Errors\n",
        "`converter.ConvertError` is the base of all of them. Each is a name of `converter`.\n",
        _fenced(inspect.cleandoc(errors.__doc__ or "")),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _entry(name: str, each: Any) -> str:
    """Describe a function, or a class with its public methods: name, signature, docstring."""
    heading = f"### `converter.{name}`\n"
    if inspect.isfunction(each):
        return f"{heading}\n{_fenced(_signature(each), 'python')}\n{_fenced(_doc(each))}\n"
    parts = [heading, _fenced(_doc(each))]
    for method, member in vars(each).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if method.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        shown = f"{name}.{method}" if isinstance(member, property) else f"{name}.{_signature(function)}"
        parts.append(f"- `{' '.join(shown.split())}`: {' '.join(_doc(function).partition(chr(10) * 2)[0].split())}")
    return "\n".join(parts) + "\n"


def _signature(function: Callable[..., Any]) -> str:
    """Return the signature. If it is long, each argument has its own line."""
    signature = inspect.signature(function)
    hints = typing.get_type_hints(function)
    arguments = []
    star = False
    for name, value in signature.parameters.items():
        if name == "self":
            continue
        if value.kind == value.KEYWORD_ONLY and not star:
            arguments.append("*")
            star = True
        hint = _type(hints[name]) if name in hints else ""
        default = "" if value.default is value.empty else f" = {_default(value.default)}"
        arguments.append(f"{name}: {hint}{default}" if hint else f"{name}{default}")
    returned = _type(hints["return"]) if "return" in hints else "None"
    short = f"{function.__name__}({', '.join(arguments)}) -> {returned}"
    if len(short) <= _WIDTH:
        return short
    return f"{function.__name__}(\n" + "".join(f"    {each},\n" for each in arguments) + f") -> {returned}"


def _type(hint: Any) -> str:
    if hint is type(None):
        return "None"
    text = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    for module in ("typing.", "collections.abc.", "pathlib.", "onnx.onnx_ml_pb2.", "converter.", "passes."):
        text = text.replace(module, "")
    words = text.replace("[", "[ ").split(" ")
    return " ".join(word.rsplit(".", 1)[-1] for word in words).replace("[ ", "[")


def _default(value: Any) -> str:
    if inspect.isfunction(value):
        return value.__name__
    unset = dataclasses.is_dataclass(value) and not isinstance(value, type) and value == type(value)()
    return f"{type(value).__name__}()" if unset else repr(value)


def _doc(each: Any) -> str:
    return inspect.getdoc(each) or ""


def _summary(kind: type) -> str:
    """Return the first paragraph of the docstring of a pass's module."""
    docstring = inspect.getdoc(inspect.getmodule(kind)) or ""
    return " ".join(docstring.partition("\n\n")[0].split())


def _fields(kind: Any) -> str:
    texts = meanings(kind)
    rows = []
    for each in dataclasses.fields(kind):
        value = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
        shown = "" if value is dataclasses.MISSING else f"`{_shown(value)}`"
        rows.append((f"`{each.name}`", shown, texts.get(each.name, "")))
    return _table(("field", "default", "meaning"), rows) if rows else "It has no fields.\n"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, frozenset):
        return ", ".join(sorted(map(str, value))) or "none"
    if value is None or value == {}:
        return "not set"
    if isinstance(value, dict) or hasattr(value, "items"):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    return str(list(value) if isinstance(value, tuple) else value)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _fenced(text: str, language: str = "text") -> str:
    return f"```{language}\n{text}\n```\n"


def outdated(committed: str, current: str) -> list[str]:
    """Return the headings of a committed page whose sections are not what the code says now."""
    now = _sections(current)
    return [heading for heading, text in _sections(committed).items() if now.get(heading) != text]


def missing(committed: str, current: str) -> list[str]:
    """Return the headings that a committed page does not have yet."""
    return [heading for heading in _sections(current) if heading not in _sections(committed)]


def _sections(page: str) -> dict[str, str]:
    """Split a page into sections by their headings; the part before the first heading has the empty heading."""
    found: dict[str, list[str]] = {"": []}
    heading, fenced = "", False
    for line in page.splitlines():
        fenced ^= line.startswith("```")
        if line.startswith("#") and not fenced:
            heading = line
        found.setdefault(heading, []).append(line)
    return {heading: "\n".join(lines).strip() for heading, lines in found.items()}


def _check(folder: Path) -> int:
    """Print what differs between the pages in a folder and the code. Return 1 if a section is outdated."""
    wrong = False
    for name, text in pages().items():
        committed = (folder / name).read_text(encoding="utf-8")
        for heading in outdated(committed, text):
            print(f"{name}: outdated: {heading.lstrip('# ') or 'the beginning'}; run: make reference")
            wrong = True
        for heading in missing(committed, text):
            print(f"{name}: not there yet: {heading.lstrip('# ')}; run: make reference")
    return int(wrong)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, and write or check the pages."""
    parser = argparse.ArgumentParser(prog="benchmarks.reference_pages", description="Write the reference pages.")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "reference", metavar="DIR", help="default docs/reference"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; list what is outdated or missing")
    parsed = parser.parse_args(arguments)
    out = parsed.out
    if parsed.check:
        return _check(out)
    out.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (out / name).write_text(text, encoding="utf-8")
        print(f"Wrote {out / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
