"""Errors and warnings: the library speaks Python, the command line speaks options, and none is forgotten."""

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import converter
from converter.cli.main import cli
from converter.cli.messages import in_options, logged_warnings, options_of
from passes.errors import UsageError, argument
from tests.support.command_line import run
from tests.support.models import images, small_cnn

ROOT = Path(converter.__file__).parents[1]
LIBRARY = sorted(
    path
    for folder in ("converter", "passes")
    for path in (ROOT / folder).rglob("*.py")
    if "cli" not in path.relative_to(ROOT).parts
)
FLAG = re.compile(r"(?<![\w\-<!])--(?=[a-z{]|$)")
PARAMETER = re.compile(r"`(\w+)=")
PYTHON_ONLY = {"memory_budget", "names", "preprocess", "progress"}  # no option gives them
OPTIONS = {"bits": "--bits", "exclude": "--exclude", "limit": "--limit", "speed": "--measure-speed", "mean": "--mean"}


def strings(path: Path) -> Iterator[str]:
    """Every string of a module, docstrings and the fixed parts of f-strings among them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_the_library_names_no_option() -> None:
    found = [f"{path.relative_to(ROOT)}: {text}" for path in LIBRARY for text in strings(path) if FLAG.search(text)]
    found += [
        f"{path.name}: {line}"
        for path in (ROOT / "converter" / "report" / "page" / "templates").glob("*.html")
        for line in path.read_text(encoding="utf-8").splitlines()
        if FLAG.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("text", ["use --limit", "--limit 3", "leave out --", "(--mean 0", "`--resize N`"])
def test_an_option_is_found(text: str) -> None:
    assert FLAG.search(text)


@pytest.mark.parametrize("text", ["a -- b", "<!-- note -->", "x--", "e-4", "`limit=`"])
def test_what_is_no_option_passes(text: str) -> None:
    assert text == "x--" or not FLAG.search(text)


def test_every_parameter_that_a_message_names_is_an_option() -> None:
    named = {name for path in LIBRARY for text in strings(path) for name in PARAMETER.findall(text)}
    named |= {
        keyword.arg
        for path in LIBRARY
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "argument"
        for keyword in node.keywords
        if keyword.arg is not None
    }
    assert {"calibration", "bits", "max_drop", "runtime"} <= named
    assert named - PYTHON_ONLY <= set(options_of(cli))


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("give `limit=`", "give --limit"),
        ("`limit=0` leaves no samples", "--limit 0 leaves no samples"),
        ("`bits={'conv1': 9, 'fc': 2}`: no", "--bits conv1=9 --bits fc=2: no"),
        ("`exclude=['a', 'b c']`", "--exclude a --exclude b c"),
        ("`speed=True` has no use", "--measure-speed has no use"),
        ("`mean=(0.5, 0.25)`", "--mean 0.5,0.25"),
        ("`mean=nan`", "--mean nan"),
        ("`mean='x'`", "--mean x"),
        ("`memory_budget=0` is none", "`memory_budget=0` is none"),
        ("`train` takes `limit=` and no `convert`", "`train` takes --limit and no `convert`"),
        ("np.savez(..., x=images) and limit=3.npz", "np.savez(..., x=images) and limit=3.npz"),
    ],
)
def test_parameters_become_options(message: str, shown: str) -> None:
    assert in_options(message, OPTIONS) == shown


def test_a_value_with_a_backtick_stays_whole() -> None:
    assert in_options(f"{argument(exclude=['a`b'])}: no layer", OPTIONS) == "--exclude a`b: no layer"


def test_an_option_of_the_command_that_runs_comes_first() -> None:
    assert options_of(cli)["evaluation"] == "--evaluate"
    assert options_of(cli, "view")["port"] == "--port"
    assert options_of(cli, "nothing") == options_of(cli)


def test_one_error_in_two_languages(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"^recipe 'int4' needs calibration data; use `calibration=` with an .npz"):
        converter.convert(small_cnn(), recipe="int4")
    done = run("convert", "m.onnx", "-o", "out.onnx", "--recipe", "int4")
    assert (
        done.stderr
        == "Error: recipe 'int4' needs calibration data; use --calibration with an .npz or a folder of images\n"
    )
    assert folder.exists()


@pytest.mark.usefixtures("folder")
def test_one_warning_in_two_languages(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    converter.convert(small_cnn(), "calibration.npz", recipe="int8")
    divided = "calibration.npz: pixels are only divided by 255; give the {} and {} that the model was trained with"
    assert [text for text in caplog.messages if text.startswith(divided.format("`mean=`", "`std=`"))]
    assert capsys.readouterr() == ("", "")
    done = run("convert", "m.onnx", "-o", "out.onnx", "--calibration", "calibration.npz")
    assert done.stderr.startswith(f"Warning: {divided.format('--mean', '--std')}")


def test_warnings_are_printed_while_a_command_runs(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("converter.somewhere")
    with logged_warnings(lambda text: text.upper()):
        log.warning("100 % odd")
        log.info("not shown")
    log.warning("later")
    assert capsys.readouterr() == ("", "Warning: 100 % ODD\n")


def test_steps_are_logged_and_nothing_is_printed(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "converter"):
        result = converter.convert(small_cnn(), images(32), recipe="int8", evaluation=images(8))
    started = [text.removesuffix(": started") for text in caplog.messages if text.endswith(": started")]
    done = [text.partition(": done in ")[0] for text in caplog.messages if ": done in " in text]
    assert started == done == [step.name for step in result.steps]
    assert {"open model", "open data", "activation_ranges", "emit", "evaluate"} <= set(started)
    assert capsys.readouterr() == ("", "")
