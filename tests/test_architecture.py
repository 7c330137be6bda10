"""The architecture, held by reading the source. Each rule is one test, which lists everything that breaks it.

The floors are read from the table in ARCHITECTURE.md, so the page and the test cannot differ.
"""

import ast
import functools
import graphlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from converter.targets.catalog import TARGETS

ROOT = Path(__file__).parents[1]
PRODUCT = ("converter", "passes")
MAX_LINES = 400
MAX_FLAT_MODULES = 4
VAGUE_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers"}
ANY_FLOOR = ("passes.errors", "converter._json", "converter._environment")
"""Modules that import nothing of the project, and that every floor may import."""

FACE_USERS = ("converter.__main__", "converter.cli")
"""Modules that call the public face, `import converter`, as users do."""


@dataclass(frozen=True)
class Ban:
    """Modules under `scope`, except those under `exempt`, import nothing under `banned`, except what is `allowed`."""

    scope: str
    banned: tuple[str, ...]
    allowed: tuple[str, ...] = ()
    exempt: tuple[str, ...] = ()


BANS = (
    Ban("passes", ("converter", "onnxruntime", "click", "rich")),
    Ban("passes", ("torch",), exempt=("passes.numerics",)),
    Ban("passes.numerics", ("passes", "onnx", "onnx_graphsurgeon", "onnxscript"), allowed=("passes.numerics",)),
    Ban("converter", ("click",), exempt=("converter.cli",)),
    Ban("models", ("converter", "passes", "onnxruntime")),
    *(Ban(scope, ("models", "benchmarks", "tests"), allowed=(scope,)) for scope in (*PRODUCT, "models")),
    Ban("benchmarks", ("tests",)),
)
TEST_BANS = (Ban("tests", ("benchmarks",), exempt=("tests.benchmarks",)),)


# What a source says.


def module_name(path: Path) -> str:
    """passes/numerics/gptq.py -> passes.numerics.gptq; a package has the name of its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def sources(*folders: str) -> dict[Path, str]:
    """The text of every module in the folders."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return {path: path.read_text(encoding="utf-8") for path in paths}


@functools.cache
def parse(source: str) -> ast.Module:
    return ast.parse(source)


def imports(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """Every module or member that a source imports, anywhere in it, as an absolute dotted name."""
    for node in ast.walk(parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=target, names=names, level=level):
                package = module.split(".")[: None if is_package else -1]
                base = package[: len(package) - level + 1] if level else []
                yield from (".".join([*base, *([target] if target else []), alias.name]) for alias in names)
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name


def imported(*folders: str) -> dict[str, set[str]]:
    """What each module of the folders imports."""
    return {
        module_name(path): set(imports(source, module_name(path), path.stem == "__init__"))
        for path, source in sources(*folders).items()
    }


def under(name: str, parents: Iterable[str]) -> str:
    """The longest parent that a dotted name is, or is inside of; "" if there is none."""
    return max((each for each in parents if name == each or name.startswith(f"{each}.")), key=len, default="")


# The rules.


def banned(modules: dict[str, set[str]], bans: Iterable[Ban]) -> list[str]:
    """Imports that are banned, one sentence each."""
    return [
        f"{module} imports {name}: nothing in {ban.scope} may import {', '.join(ban.banned)}"
        for ban in bans
        for module, names in modules.items()
        if under(module, [ban.scope]) and not under(module, ban.exempt)
        for name in sorted(names)
        if under(name, ban.banned) and not under(name, ban.allowed)
    ]


@dataclass(frozen=True)
class Room:
    """A row of the table: folders or modules that may import each other, and their floor, of which 1 is the highest."""

    floor: int
    members: tuple[str, ...]


def rooms(page: str) -> list[Room]:
    """The table of a page, below the public face."""
    found = [Room(0, ("converter",))]
    for number, cell in re.findall(r"^\| (\d+) \| (.+?) \|", page, re.MULTILINE):
        first, *others = (Path(name) for name in re.findall(r"`([\w/.]+)`", cell))
        paths = [first, *(first.parent / path.name for path in others)]
        found.append(Room(int(number), tuple(".".join(path.with_suffix("").parts) for path in paths)))
    return found


def climbing(modules: dict[str, set[str]], house: list[Room]) -> list[str]:
    """Imports that do not run down, one sentence each, and modules that have no floor."""
    room_of = {member: room for room in house for member in room.members}
    found = []
    for module, names in modules.items():
        if module in {"passes", *ANY_FLOOR}:
            continue
        home = room_of.get(under(module, room_of))
        if home is None or (home.floor == 0 and module not in {"converter", "converter.__main__"}):
            found.append(f"{module} is in no folder of the table in ARCHITECTURE.md")
            continue
        for name in sorted(names):
            other = room_of.get(under(name, room_of), home)
            allowed = under(name, ANY_FLOOR) or (other.floor == 0 and under(module, FACE_USERS))
            if other != home and other.floor <= home.floor and not allowed:
                found.append(f"{module} (floor {home.floor}) imports {name} (floor {other.floor}): imports run down")
    return found


def circles(modules: dict[str, set[str]]) -> list[str]:
    """The first circle of modules that import each other, if there is one."""
    try:
        graphlib.TopologicalSorter(
            {module: {under(name, modules) for name in names} - {module, ""} for module, names in modules.items()}
        ).prepare()
    except graphlib.CycleError as error:
        return [" imports ".join(reversed(error.args[1]))]
    return []


def is_vague(stem: str) -> bool:
    """A name that says nothing about what a file holds: utils, graph_helpers, base_pass."""
    return stem.startswith("base_") or stem.rsplit("_", maxsplit=1)[-1] in VAGUE_NAMES


def named_targets(source: str) -> list[str]:
    """Names of targets that a source compares with; those of providers and of torch's devices are others."""
    if any(under(name, ["torch"]) for name in imports(source, "", is_package=True)):
        return []
    found = []
    for node in ast.walk(parse(source)):
        match node:
            case ast.Compare(left=left, comparators=others):
                sides: list[ast.AST] = [left, *others]
            case ast.Match(subject=subject, cases=cases):
                sides = [subject, *(case.pattern for case in cases)]
            case _:
                continue
        words = {text for side in sides for text in _identifiers(side)}
        constants = (each.value for side in sides for each in ast.walk(side) if isinstance(each, ast.Constant))
        if not words & {"provider", "device"}:
            found += [str(value) for value in constants if value in TARGETS]
    return found


def _identifiers(side: ast.AST) -> Iterator[str]:
    """x.provider, provider and job["provider"] all give "provider"."""
    match side:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Subscript(slice=ast.Constant(value=str(name))):
            yield name


def wrong_exports(source: str) -> str:
    """What is wrong with `__all__` in a public module that has more in it than a docstring; "" if nothing is."""
    body = parse(source).body
    for node in body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id="__all__")], value=value)
                | ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.expr() as value)
            ):
                names = ast.literal_eval(value)
                return "" if len(names) == len(set(names)) else "a name stands twice in __all__"
    return "" if all(isinstance(node, ast.Expr) for node in body) else "no __all__"


def refuse(violations: Iterable[str]) -> None:
    """Fail with all of them."""
    found = list(violations)
    assert not found, f"{len(found)} violations:\n" + "\n".join(found)


def test_imports_run_down() -> None:
    product = imported(*PRODUCT)
    house = rooms((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    members = [name for room in house for name in room.members]
    missing = [name for name in members if not any(under(module, [name]) for module in product)]
    refuse(
        [
            *(f"{name} is in the table of ARCHITECTURE.md and not in the tree" for name in missing),
            *climbing(product, house),
            *circles(product),
            *banned(imported(*PRODUCT, "models", "benchmarks"), BANS),
        ]
    )


def test_product_tests_need_no_benchmarks() -> None:
    refuse(banned(imported("tests"), TEST_BANS))


def test_files_are_short() -> None:
    lines = {
        path: len(source.splitlines()) for path, source in sources(*PRODUCT, "models", "benchmarks", "tests").items()
    }
    refuse(
        f"{module_name(path)} has {count} lines; past {MAX_LINES} its idea has split: split the file"
        for path, count in lines.items()
        if count > MAX_LINES
    )


def test_names_say_what_a_file_is() -> None:
    refuse(
        f"{module_name(path)}: name the file after the one thing it does"
        for path in sources(*PRODUCT, "models", "benchmarks", "tests")
        if any(is_vague(name) for name in (*path.relative_to(ROOT).parent.parts, path.stem))
    )


def test_no_target_is_known_by_name() -> None:
    refuse(
        f"{module_name(path)} compares with {', '.join(names)}; ask for a fact of the target"
        for path, source in sources(*PRODUCT).items()
        if (names := named_targets(source))
    )


def test_public_names_are_listed() -> None:
    refuse(
        f"{module_name(path)}: {wrong}"
        for path, source in sources(*PRODUCT).items()
        if (path.stem == "__init__" or not path.stem.startswith("_")) and (wrong := wrong_exports(source))
    )


def test_the_converter_has_few_flat_modules() -> None:
    flat = sorted(path.name for path in (ROOT / "converter").glob("*.py"))
    assert "__init__.py" in flat
    assert len(flat) <= MAX_FLAT_MODULES, f"{', '.join(flat)}: a module belongs in the folder of its stage"


# The rules themselves: each kind of violation is caught, so that a rule that never fires is noticed.


def test_a_banned_import_is_found() -> None:
    for module, source, culprit in (
        ("passes.numerics.gptq", "import onnx", "onnx"),
        ("passes.numerics.gptq", "from onnx import helper", "onnx.helper"),
        ("passes.numerics.gptq", "def f():\n    import onnx_graphsurgeon", "onnx_graphsurgeon"),
        ("passes.numerics.gptq", "import onnxscript", "onnxscript"),
        ("passes.numerics.gptq", "from passes import linear", "passes.linear"),
        ("passes.numerics.gptq", "from ..linear import Layer", "passes.linear.Layer"),
        ("passes.numerics.gptq", "from .. import linear", "passes.linear"),
        ("passes.gptq", "import onnxruntime as ort", "onnxruntime"),
        ("passes.gptq", "import torch.nn", "torch.nn"),
        ("passes.gptq", "import rich", "rich"),
        ("passes.gptq", "from converter.data import load", "converter.data.load"),
        ("passes.gptq", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import converter", "converter"),
        ("passes.gptq", "import importlib\nimportlib.import_module('click')", "click"),
        ("passes.gptq", "__import__('converter.cli')", "converter.cli"),
        ("passes.gptq", "import tests.networks", "tests.networks"),
        ("converter.recipe", "import click", "click"),
        ("converter.emit.qdq", "from click import echo", "click.echo"),
        ("converter.export", "import models.resnet", "models.resnet"),
        ("converter.export", "import benchmarks.demo", "benchmarks.demo"),
        ("models.resnet", "from passes.errors import ModelError", "passes.errors.ModelError"),
        ("models.resnet", "import onnxruntime", "onnxruntime"),
        ("benchmarks.demo", "import tests.nets", "tests.nets"),
        ("tests.passes.test_gptq", "from benchmarks.demo import main", "benchmarks.demo.main"),
    ):
        found = banned({module: set(imports(source, module))}, (*BANS, *TEST_BANS))
        assert found, (module, source)
        assert found[0].startswith(f"{module} imports {culprit}: ")
    assert list(imports("from .grids import Grid", "passes.numerics", is_package=True)) == [
        "passes.numerics.grids.Grid"
    ]
    assert list(imports("from ..base import Pass", "passes.numerics", is_package=True)) == ["passes.base.Pass"]


def test_an_allowed_import_passes() -> None:
    for module, source in (
        ("passes.numerics.gptq", "import numpy\nimport torch\nimport scipy.linalg"),
        ("passes.numerics.gptq", "from .grids import Grid\nfrom passes.numerics import rtn"),
        ("passes.gptq", "import onnx\nfrom passes.numerics.gptq import solve"),
        ("passes.gptq", "import onnx_ir\nimport clicky"),  # a prefix is no package
        ("converter.cli.main", "import click\nfrom converter.pipeline import convert"),
        ("converter.calibrate", "import onnxruntime\nfrom passes.base import Stats"),
        ("models.resnet", "import torch\nfrom .layers import Block"),
        ("tests.benchmarks.test_demo", "from benchmarks.demo import main"),
    ):
        assert banned({module: set(imports(source, module))}, (*BANS, *TEST_BANS)) == []


def test_an_import_that_climbs_is_found() -> None:
    house = rooms(
        "| 1 | `converter/cli/` | a |\n| 2 | `converter/data/` | b |\n| 2 | `passes/base.py`, `report.py` | c |"
    )
    assert house[1:] == [
        Room(1, ("converter.cli",)),
        Room(2, ("converter.data",)),
        Room(2, ("passes.base", "passes.report")),
    ]
    for module, name in (
        ("converter.cli.main", "converter.data.load"),
        ("converter.data.load", "converter.data.inputs"),
        ("passes.base", "passes.report.PassReport"),
        ("passes.base", "passes.errors.ModelError"),
        ("converter.cli.main", "converter.convert"),
    ):
        assert climbing({module: {name}}, house) == [], (module, name)
    for module, name in (
        ("converter.data.load", "converter.cli.main"),  # up
        ("converter.data.load", "passes.base"),  # beside
        ("converter.data.load", "converter.convert"),  # the public face
        ("converter.new.load", "passes.base"),  # on no floor
        ("passes.new", "passes.base"),
    ):
        assert len(climbing({module: {name}}, house)) == 1, (module, name)


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b.name"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b.name"}, "b": {"c"}, "c": {"a"}}) == ["a imports b imports c imports a"]


def test_vague_names_are_found() -> None:
    assert all(map(is_vague, ("utils", "graph_utils", "helpers", "common", "misc", "manager", "base_pass")))
    assert not any(map(is_vague, ("base", "gptq", "storage", "fold_batchnorm", "commons_import")))


def test_wrong_exports_are_found() -> None:
    assert wrong_exports("a = 1") == "no __all__"
    assert wrong_exports('__all__ = ["a", "a"]') == "a name stands twice in __all__"
    assert all(
        wrong_exports(right) == "" for right in ('__all__: list[str] = ["a"]', '__all__ = ["a"]', '"""Nothing."""')
    )


def test_targets_known_by_name_are_found() -> None:
    for source in (
        'words = [] if origin.target == "cpu" else words',
        'if "qnn" != chosen.name: pass',
        'if target in {"cpu", "web"}: pass',
        'match target:\n    case "mobile":\n        pass',
    ):
        assert named_targets(source), source
    for source in (
        'if target.provider != "cpu": pass',
        'if job["provider"] == "qnn": pass',
        'import torch\nif chosen == "cuda": pass',
        "if origin.target != DEFAULT_TARGET: pass",
        'if recipe == "int8": pass',
    ):
        assert not named_targets(source), source


def test_a_failure_lists_every_violation() -> None:
    with pytest.raises(AssertionError) as failure:
        refuse(["first", "second"])
    assert {"first", "second"} <= {line.strip() for line in str(failure.value).splitlines()}
