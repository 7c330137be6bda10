"""Objects named as `FILE.py:NAME` or `FILE.py:NAME(argument=literal)`. The file is loaded by its path."""

import ast
import difflib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from converter.model_io.user_code import user_code
from passes.errors import ConvertError, UsageError

__all__ = ["Spec", "call", "functions_of", "load_name", "parse_spec"]

_SPEC = re.compile(r"(?P<file>.+\.py):(?P<name>[^\W\d]\w*)(?P<arguments>\(.*\))?", re.DOTALL)


@dataclass(frozen=True)
class Spec:
    """A name in a Python file, and keyword arguments for it."""

    path: Path
    name: str
    arguments: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"


def parse_spec(text: str, example: str) -> Spec:
    """Parse ``FILE.py:NAME`` or ``FILE.py:NAME(name=literal, ...)``.

    Args:
        text: The text to parse.
        example: An example of the right form, for the error message.

    Raises:
        UsageError: The text has another form, or an argument is not a literal with a name.
    """
    match = _SPEC.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not {example}{_suggestion(text)}")
    return Spec(Path(match["file"]), match["name"], _literal_arguments(text, match["arguments"] or "()"))


def functions_of(path: Path) -> list[str]:
    """Names of the public functions and classes at the top level of a Python file. The file is parsed, but not run."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return []
    kinds = ast.FunctionDef | ast.ClassDef
    return [node.name for node in body if isinstance(node, kinds) and not node.name.startswith("_")]


def _suggestion(text: str) -> str:
    path = Path(text.partition(".py:")[0] + ".py") if ".py:" in text else Path(text)
    names = functions_of(path) if path.suffix == ".py" else []
    return f"; it has {', '.join(f'{path}:{name}' for name in names)}" if names else ""


def _literal_arguments(spec: str, text: str) -> dict[str, Any]:
    try:
        node = ast.parse(f"f{text}", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # such as null bytes or 1000 brackets
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise UsageError(f"{spec!r}: cannot read the arguments {text[:80]}: {reason}") from error
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise UsageError(f"{spec!r}: cannot read the arguments {text}; write NAME(name=value)")
    if node.args or any(keyword.arg is None for keyword in node.keywords):
        raise UsageError(f"{spec!r}: arguments must be named, for example (num_classes=43)")
    values: dict[str, Any] = {}
    for keyword in node.keywords:
        name, source = str(keyword.arg), ast.unparse(keyword)
        if name in values:
            raise UsageError(f"{spec!r}: {name} is given twice")
        try:
            values[name] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError) as error:  # TypeError: a list as a key
            raise UsageError(f"{spec!r}: {source} is not a literal (number, string, tuple, list, dict)") from error
    return values


def call(function: Any, arguments: Mapping[str, Any], what: str, error_type: type[ConvertError]) -> Any:
    """Call ``function(**arguments)``.

    Args:
        function: Function of the user.
        arguments: Its keyword arguments.
        what: Name of the function in error messages.
        error_type: Type of the error if the function raises.

    Raises:
        UsageError: The function does not take these arguments.
        ConvertError: An ``error_type``: the function raises.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a callable written in C has no signature
        signature = None
    if signature is not None:
        try:
            signature.bind(**arguments)
        except TypeError as error:
            raise UsageError(f"{what} takes {signature}: {error}") from error
    with user_code(what, error_type):
        return function(**arguments)


@contextmanager
def load_name(path: Path, name: str, error_type: type[ConvertError]) -> Iterator[Any]:
    """The object `name` of the Python file `path`. Modules in the file's folder can be imported in the `with` block.

    Raises:
        ConvertError: An `error_type`: the file is missing or raises while it loads, or it does not define the name.
    """
    if not path.is_file():
        raise error_type(f"{path}: no such file; FILE.py:CALLABLE takes a path relative to the current folder")
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        module = _execute(path, error_type)
        if not hasattr(module, name):
            raise error_type(f"{path} has no {name!r}; {_hint(module, name)}")
        yield getattr(module, name)
    finally:
        sys.path.remove(folder)


def _execute(path: Path, error_type: type[ConvertError]) -> ModuleType:
    key = f"data_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(key, path)
    if spec is None or spec.loader is None:
        raise error_type(f"{path}: cannot be loaded as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module  # dataclasses and pickle look their module up there
    with user_code(f"{path}: loading it", error_type):
        spec.loader.exec_module(module)
    return module


def _hint(module: ModuleType, name: str) -> str:
    names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    nearest = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(names) or 'no callable'}"
