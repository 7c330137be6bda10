"""The architecture, held by reading the source: imports point one way, files stay short, names say what a file is.

converter -> passes -> passes.numerics        models/ stands alone
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from converter.targets.catalog import TARGETS

ROOT = Path(__file__).parents[1]
PRODUCT = ("converter", "passes", "models", "benchmarks")
MAX_LINES = 400
VAGUE_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers"}


@dataclass(frozen=True)
class Rule:
    """Modules under `scope` (less those under `exempt`) import nothing under `forbidden`, save what is `allowed`."""

    scope: str
    forbidden: tuple[str, ...]
    allowed: tuple[str, ...] = ()
    exempt: tuple[str, ...] = ()


CLICK = tuple(
    f"converter.{name}"
    for name in ("cli", "cli_context", "cli_look", "cli_result", "cli_targets", "cli_train", "options")
)
RULES = (
    Rule(
        "passes.numerics",
        forbidden=("onnx", "onnxruntime", "onnx_graphsurgeon", "onnxscript", "click", "rich", "passes"),
        allowed=("passes.numerics",),
    ),
    Rule("passes", forbidden=("converter", "models", "benchmarks", "tests", "onnxruntime", "click", "rich")),
    Rule("passes", forbidden=("torch",), exempt=("passes.numerics",)),
    Rule("converter", forbidden=("models", "benchmarks", "tests")),
    Rule("converter", forbidden=("click",), exempt=CLICK),
    Rule("models", forbidden=("converter", "passes", "benchmarks", "tests", "onnx", "onnxruntime")),
    Rule("benchmarks", forbidden=("tests",)),
)


def under(name: str, parents: tuple[str, ...]) -> bool:
    """Is a dotted name one of the parents, or inside one?"""
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def module_name(path: Path) -> str:
    """passes/numerics/gptq.py -> passes.numerics.gptq; a package is named by its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """Every module or member that a source imports, anywhere in it, as an absolute dotted name."""
    for node in ast.walk(ast.parse(source)):
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


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What a source imports against the rules, one sentence each."""
    names = sorted(set(imports(source, module, is_package)))
    return [
        f"{module} imports {name}: nothing in {rule.scope} may import {', '.join(rule.forbidden)}"
        for rule in RULES
        if under(module, (rule.scope,)) and not under(module, rule.exempt)
        for name in names
        if under(name, rule.forbidden) and not under(name, rule.allowed)
    ]


def exports(source: str) -> list[str] | None:
    """The names in __all__, or None where there is none."""
    for node in ast.parse(source).body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id="__all__")], value=value)
                | ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.expr() as value)
            ):
                return [str(name) for name in ast.literal_eval(value)]
    return None


def is_vague(stem: str) -> bool:
    """A name that says nothing about what a file holds: utils, graph_helpers, base_pass."""
    return stem.startswith("base_") or stem.rsplit("_", maxsplit=1)[-1] in VAGUE_NAMES


def named_targets(source: str) -> list[str]:
    """Names of targets that a source compares with; those of providers and of torch's devices are others."""
    tree = ast.parse(source)
    if any(name == "torch" or name.startswith("torch.") for name in imports(source, "", is_package=True)):
        return []
    found = []
    for node in ast.walk(tree):
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


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def needs_exports(path: Path) -> bool:
    """A public module with anything in it besides its docstring."""
    private = path.stem.startswith("_") and path.stem != "__init__"
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return not private and not all(isinstance(node, ast.Expr) for node in body)


def test_there_is_something_to_check() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in files(*PRODUCT)} == set(PRODUCT)


@pytest.mark.parametrize("path", files(*PRODUCT), ids=label)
def test_imports_point_one_way(path: Path) -> None:
    found = violations(path.read_text(encoding="utf-8"), module_name(path), path.stem == "__init__")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", files(*PRODUCT), ids=label)
def test_file_is_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{label(path)} has {lines} lines; past {MAX_LINES} its idea has split: split the file"


@pytest.mark.parametrize("path", files(*PRODUCT, "tests"), ids=label)
def test_name_says_what_a_file_is(path: Path) -> None:
    names = (*path.relative_to(ROOT).parent.parts, path.stem)
    assert not any(is_vague(name) for name in names), f"{label(path)}: name the file after the one thing it does"


@pytest.mark.parametrize("path", files("converter", "passes"), ids=label)
def test_no_target_is_known_by_name(path: Path) -> None:
    found = named_targets(path.read_text(encoding="utf-8"))
    assert not found or label(path) == "converter/targets.py", f"{label(path)} compares with {', '.join(found)}"


@pytest.mark.parametrize("path", [path for path in files("converter", "passes") if needs_exports(path)], ids=label)
def test_public_names_are_listed(path: Path) -> None:
    names = exports(path.read_text(encoding="utf-8"))
    assert names is not None, f"{label(path)} has no __all__"
    assert len(names) == len(set(names)), f"{label(path)}: a name stands twice in __all__"


# The checker itself: each of these must be caught, so that a rule which never fires is noticed.


@pytest.mark.parametrize(
    ("module", "source", "culprit"),
    [
        pytest.param("passes.numerics.gptq", "import onnx", "onnx", id="numerics_onnx"),
        pytest.param("passes.numerics.gptq", "from onnx import helper", "onnx.helper", id="numerics_onnx_member"),
        pytest.param("passes.numerics.gptq", "from passes import linear", "passes.linear", id="numerics_passes"),
        pytest.param("passes.numerics.gptq", "from ..linear import Layer", "passes.linear.Layer", id="relative"),
        pytest.param("passes.numerics.gptq", "from .. import linear", "passes.linear", id="relative_module"),
        pytest.param("passes.numerics.gptq", "def f():\n    import onnx_graphsurgeon", "onnx_graphsurgeon", id="lazy"),
        pytest.param("passes.gptq", "import onnxruntime as ort", "onnxruntime", id="passes_onnxruntime"),
        pytest.param("passes.gptq", "import torch.nn", "torch.nn", id="passes_torch"),
        pytest.param("passes.gptq", "from converter.data import load", "converter.data.load", id="passes_converter"),
        pytest.param(
            "passes.gptq",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import converter",
            "converter",
            id="type_checking",
        ),
        pytest.param("passes.gptq", "import importlib\nimportlib.import_module('click')", "click", id="by_name"),
        pytest.param("passes.gptq", "__import__('converter.cli')", "converter.cli", id="dunder_import"),
        pytest.param("converter.recipe", "import click", "click", id="click_outside_cli"),
        pytest.param("converter.emit.qdq", "from click import echo", "click.echo", id="click_in_subpackage"),
        pytest.param("converter.export", "import models.resnet", "models.resnet", id="converter_models"),
        pytest.param("models.resnet", "from passes.errors import ModelError", "passes.errors.ModelError", id="models"),
        pytest.param("benchmarks.demo", "import tests.nets", "tests.nets", id="benchmarks_tests"),
    ],
)
def test_violation_is_found(module: str, source: str, culprit: str) -> None:
    found = violations(source, module)
    assert found, "not found"
    assert found[0].startswith(f"{module} imports {culprit}: ")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param("passes.numerics.gptq", "import numpy\nimport torch\nimport scipy.linalg", id="numerics_arrays"),
        pytest.param("passes.numerics.gptq", "from .grids import Grid\nfrom passes.numerics import rtn", id="siblings"),
        pytest.param("passes.gptq", "import onnx\nfrom passes.numerics.gptq import solve", id="passes_down"),
        pytest.param("converter.cli", "import click\nfrom converter import convert", id="cli_click"),
        pytest.param("converter.calibrate", "import onnxruntime\nfrom passes.base import Stats", id="converter_down"),
        pytest.param("passes.gptq", "import onnx_ir\nimport clicky", id="a_prefix_is_not_a_package"),
        pytest.param("models.resnet", "import torch\nfrom .layers import Block", id="models_torch"),
    ],
)
def test_rightful_import_passes(module: str, source: str) -> None:
    assert violations(source, module) == []


def test_relative_import_of_a_package() -> None:
    assert list(imports("from .grids import Grid", "passes.numerics", is_package=True)) == [
        "passes.numerics.grids.Grid"
    ]
    assert violations("from ..base import Pass", "passes.numerics", is_package=True)


@pytest.mark.parametrize("stem", ["utils", "graph_utils", "helpers", "common", "misc", "manager", "base_pass"])
def test_vague_name_is_found(stem: str) -> None:
    assert is_vague(stem)


@pytest.mark.parametrize("stem", ["base", "gptq", "storage", "fold_batchnorm", "commons_import"])
def test_telling_name_passes(stem: str) -> None:
    assert not is_vague(stem)


def test_exports_are_read() -> None:
    assert exports('__all__ = ["a", "b"]') == ["a", "b"]
    assert exports('__all__: list[str] = ["a"]') == ["a"]
    assert exports("a = 1") is None


@pytest.mark.parametrize(
    "source",
    [
        pytest.param('words = [] if origin.target == "cpu" else words', id="attribute"),
        pytest.param('if "qnn" != chosen.name: pass', id="name_first"),
        pytest.param('if target in {"cpu", "web"}: pass', id="one_of"),
        pytest.param('match target:\n    case "mobile":\n        pass', id="match"),
    ],
)
def test_a_target_that_is_named_is_found(source: str) -> None:
    assert named_targets(source)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param('if target.provider != "cpu": pass', id="provider"),
        pytest.param('if job["provider"] == "qnn": pass', id="provider_of_a_job"),
        pytest.param('import torch\nif chosen == "cuda": pass', id="torch_device"),
        pytest.param("if origin.target != DEFAULT_TARGET: pass", id="constant"),
        pytest.param('if recipe == "int8": pass', id="another_name"),
    ],
)
def test_what_is_no_target_s_name_passes(source: str) -> None:
    assert named_targets(source) == []
