"""`FILE.py:FACTORY` and a weights file -> a torch module with its weights.

FACTORY is called with the literal keyword arguments that follow it, if any: `resnet.py:resnet18(num_classes=43)`.
torch is an optional extra, imported inside the functions that need it.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.model_io.python_spec import call, load_name, parse_spec
from passes.errors import ExportError

if TYPE_CHECKING:
    from types import ModuleType

    import torch

__all__ = ["apply_weights", "load_factory", "load_module", "load_weights", "require_torch"]

NAMED = 5  # keys an error message lists before it counts the rest
WRAPPERS = ("state_dict", "model_state_dict", "model")
UNUSED = "num_batches_tracked"  # BatchNorm's training counter: no part of inference


def require_torch() -> ModuleType:
    """The torch module. Raises ExportError where it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise ExportError(f"a PyTorch model needs torch ({error}); pip install convert-onnx[torch]") from error
    return torch


def load_module(spec: str, weights: str | Path | None = None) -> torch.nn.Module:
    """`load_factory(spec)`, and `load_weights(weights)` applied to it where a file is given. Raises ExportError."""
    module = load_factory(spec)
    if weights is not None:
        apply_weights(module, load_weights(weights), str(weights))
    return module


def load_factory(spec: str) -> torch.nn.Module:
    """Call the factory that `FILE.py:FACTORY` or `FILE.py:FACTORY(name=literal, ...)` names; return its module.

    FILE is loaded by its path. Its folder can be imported from while the file loads and the factory runs, not later.
    Raises UsageError for another form and for arguments that are not literal keywords or that the factory does not
    take; ExportError for a missing file, a file that fails to load, a name it does not have, a factory that raises, and
    a result that is not an nn.Module.
    """
    found = parse_spec(spec, "FILE.py:FACTORY, for example models/resnet.py:resnet18")
    require_torch()
    from torch import nn

    with _forgetting_siblings(found.path), load_name(found.path, found.name, ExportError) as factory:
        if not callable(factory):
            raise ExportError(f"{found} is {type(factory).__name__}, not a function that returns a torch.nn.Module")
        module = call(factory, found.arguments, str(found), ExportError)
    if not isinstance(module, nn.Module):
        raise ExportError(f"{found} returned {type(module).__name__}, not a torch.nn.Module")
    return module


@contextmanager
def _forgetting_siblings(path: Path) -> Iterator[None]:
    """Forget the modules imported from the file's folder, so that the next file finds its own siblings of that name."""
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

    A checkpoint's `state_dict`, `model_state_dict` or `model` is unwrapped, and a `module.` prefix that every key has
    is removed. Raises ExportError for a missing file, another suffix, an unreadable file, and values not tensors.
    """
    path = Path(path)
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz, ".pt": _read_torch, ".pth": _read_torch}
    if path.suffix not in readers:
        raise ExportError(f"{path}: weights are {', '.join(readers)} files, not {path.suffix or 'without a suffix'}")
    if not path.is_file():
        raise ExportError(f"{path}: no such weights file")
    torch = require_torch()
    found = readers[path.suffix](path)
    for key in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping) or not found:
        raise ExportError(f"{path}: holds no parameters but {type(found).__name__}; save module.state_dict() in it")
    for key, value in found.items():
        if not isinstance(value, torch.Tensor):
            raise ExportError(f"{path}: {key!r} is a {type(value).__name__}, no tensor; save module.state_dict() in it")
    if all(key.startswith("module.") for key in found):
        return {key.removeprefix("module."): value for key, value in found.items()}
    return dict(found)


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ExportError(f"{path}: needs safetensors; pip install convert-onnx[torch]") from error
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ExportError(f"{path}: not a readable safetensors file: {error}") from error


def _read_npz(path: Path) -> Any:
    torch = require_torch()
    if not zipfile.is_zipfile(path):
        raise ExportError(f"{path}: not a .npz file, or cut off")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name].copy()) for name in arrays.files}
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ExportError(f"{path}: not a readable .npz of plain arrays: {error}") from error


def _read_torch(path: Path) -> Any:
    torch = require_torch()
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle that is cut off or refused raises a dozen unrelated types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ExportError(
            f"{path}: not a file of plain tensors ({reason}); save module.state_dict() in it, or use .safetensors"
        ) from error


def apply_weights(module: torch.nn.Module, weights: Mapping[str, torch.Tensor], source: str = "weights") -> None:
    """Load `weights` into `module`, cast to the dtype each parameter has there; `source` names them in errors.

    BatchNorm's `num_batches_tracked` may be missing or left over. Raises ExportError that names missing keys,
    unexpected keys and shapes that differ, and then changes nothing.
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
        hint = "; for another number of classes name it: FILE.py:FACTORY(num_classes=43)" if shapes else ""
        raise ExportError(f"{source} does not fit {type(module).__name__}: {'; '.join(problems)}{hint}")
    known = {key: weights[key].to(expected[key].dtype) for key in expected if key in weights}
    module.load_state_dict(known | {key: expected[key] for key in expected if key not in known})


def _first(items: list[str]) -> str:
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more
