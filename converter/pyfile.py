"""`FILE.py:NAME` -> the object of that name, from a file loaded by its path."""

import difflib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from passes.errors import ConvertError

__all__ = ["load_name"]


@contextmanager
def load_name(path: Path, name: str, error_type: type[ConvertError]) -> Iterator[Any]:
    """The object `name` of the Python file `path`; the file's folder can be imported from inside the `with` block.

    Raises `error_type` for a missing file, a file that raises while it loads, and a name that it does not define.
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
    sys.modules[key] = module  # dataclasses and pickling look their module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise error_type(f"{path}: loading it raised {type(error).__name__}: {error}") from error
    return module


def _hint(module: ModuleType, name: str) -> str:
    names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    nearest = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(names) or 'no callable'}"
