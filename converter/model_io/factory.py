"""Torch modules from `FILE.py:FACTORY` and a weights file.

FACTORY is called with the literal keyword arguments that may follow it: `resnet.py:resnet18(num_classes=43)`. torch is
an optional extra, so the functions that need it import it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.model_io.files import npz_fault
from converter.model_io.python_spec import call, load_name, parse_spec
from passes.errors import ExportError

if TYPE_CHECKING:
    from types import ModuleType

    import torch

__all__ = ["apply_weights", "load_factory", "load_module", "load_weights", "require_torch"]

NAMED = 5  # keys that an error message lists before it counts the rest
WRAPPERS = ("state_dict", "model_state_dict", "model")
UNUSED = "num_batches_tracked"  # BatchNorm's training counter, which inference does not use


def require_torch() -> ModuleType:
    """Import torch.

    Raises:
        ExportError: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise ExportError(f"a PyTorch model needs torch ({error}); pip install convert-onnx[torch]") from error
    return torch


def load_module(spec: str, weights: str | Path | None = None) -> torch.nn.Module:
    """Call a factory, and load a weights file into its module if one is given.

    Raises:
        UsageError: See `load_factory`.
        ExportError: See `load_factory`, `load_weights` and `apply_weights`.
    """
    module = load_factory(spec)
    if weights is not None:
        apply_weights(module, load_weights(weights), str(weights))
    return module


def load_factory(spec: str) -> torch.nn.Module:
    """Call the factory that `FILE.py:FACTORY` or `FILE.py:FACTORY(name=literal, ...)` names, and return its module.

    FILE is loaded by its path. Modules in its folder can be imported while the file loads and the factory runs, not
    later.

    Raises:
        UsageError: The text has another form, an argument is not a literal with a name, or the factory does not take
            the arguments.
        ExportError: The file is missing or fails to load, it does not have the name, the factory raises, or its result
            is not an nn.Module.
    """
    parsed = parse_spec(spec, "FILE.py:FACTORY, for example models/resnet.py:resnet18")
    require_torch()
    from torch import nn

    with _forgetting_siblings(parsed.path), load_name(parsed.path, parsed.name, ExportError) as factory:
        if not callable(factory):
            raise ExportError(f"{parsed} is {type(factory).__name__}, not a function that returns a torch.nn.Module")
        module = call(factory, parsed.arguments, str(parsed), ExportError)
    if not isinstance(module, nn.Module):
        raise ExportError(f"{parsed} returned {type(module).__name__}, not a torch.nn.Module")
    return module


@contextmanager
def _forgetting_siblings(path: Path) -> Iterator[None]:
    """Forget modules imported from the file's folder. The next file may have other modules of the same names."""
    folder = path.resolve().parent
    before = set(sys.modules)
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            top = name.partition(".")[0]
            if (folder / f"{top}.py").is_file() or (folder / top).is_dir():
                del sys.modules[name]


def load_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read `.safetensors`, `.npz`, or `.pt`/`.pth` (weights_only) as `{parameter name: tensor}`.

    If a checkpoint has a `state_dict`, `model_state_dict` or `model`, its content is returned. If all keys begin with
    `module.`, this prefix is removed.

    Raises:
        ExportError: The file is missing or unreadable, its suffix is another one, or a value is not a tensor.
    """
    path = Path(path)
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz, ".pt": _read_torch, ".pth": _read_torch}
    if path.suffix not in readers:
        raise ExportError(f"{path}: weights are {', '.join(readers)} files, not {path.suffix or 'without a suffix'}")
    if not path.is_file():
        raise ExportError(f"{path}: no such weights file")
    torch = require_torch()
    content = readers[path.suffix](path)
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise ExportError(f"{path}: holds no parameters but {type(content).__name__}; save module.state_dict() in it")
    for key, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise ExportError(
                f"{path}: {key!r} is of type {type(value).__name__}, not a tensor; save module.state_dict() in it"
            )
    if all(key.startswith("module.") for key in content):
        return {key.removeprefix("module."): value for key, value in content.items()}
    return dict(content)


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ExportError(f"{path}: needs safetensors; pip install convert-onnx[torch]") from error
    try:
        return load_file(path)
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}") from error
    except SafetensorError as error:
        raise ExportError(f"{path} is not a safetensors file, or it is damaged; save the weights again") from error


def _read_npz(path: Path) -> Any:
    torch = require_torch()
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name].copy()) for name in arrays.files}
    except TypeError as error:
        raise ExportError(f"{path} has an array of a type that torch lacks; save arrays of numbers") from error
    except Exception as error:  # a damaged zip archive raises errors of many types
        raise ExportError(f"{path} cannot be read as .npz: {npz_fault(path, error)}") from error


def _read_torch(path: Path) -> Any:
    torch = require_torch()
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or refused pickle raises errors of many unrelated types
        raise ExportError(
            f"{path}: not a file of plain tensors, or damaged; save module.state_dict() in it, or use .safetensors"
        ) from error


def apply_weights(module: torch.nn.Module, weights: Mapping[str, torch.Tensor], source: str = "weights") -> None:
    """Load weights into a module. Each is cast to the dtype of the module's parameter.

    BatchNorm's `num_batches_tracked` may be missing or superfluous.

    Args:
        module: The module. It does not change if an error is raised.
        weights: Tensors by parameter name.
        source: Name of the weights in error messages.

    Raises:
        ExportError: Keys are missing or unexpected, or shapes differ. The message names them.
    """
    expected = module.state_dict()
    missing = [key for key in expected if key not in weights and not key.endswith(UNUSED)]
    unexpected = [key for key in weights if key not in expected and not key.endswith(UNUSED)]
    shapes = [
        f"{key} {list(weights[key].shape)}, the model has {list(value.shape)}"
        for key, value in expected.items()
        if key in weights and not key.endswith(UNUSED) and weights[key].shape != value.shape
    ]
    problems = [
        f"{len(items)} {what}: {_first(items)}"
        for what, items in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if items
    ]
    if problems:
        hint = "; another number of classes is given as FILE.py:FACTORY(num_classes=43)" if shapes else ""
        raise ExportError(f"{source} does not fit {type(module).__name__}: {'; '.join(problems)}{hint}")
    known = {key: weights[key].to(expected[key].dtype) for key in expected if key in weights}
    module.load_state_dict(known | {key: expected[key] for key in expected if key not in known})


def _first(items: list[str]) -> str:
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more
