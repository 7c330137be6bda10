"""A model from whatever the user named: an ONNX file, FILE.py:FACTORY, or an object in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from converter.load import load_onnx, upgrade_opset
from passes.errors import ModelError

__all__ = ["DEFAULT_INPUT_SHAPE", "is_factory", "open_model"]

DEFAULT_INPUT_SHAPE = (1, 3, 224, 224)


def is_factory(spec: str) -> bool:
    """Whether ``spec`` is ``FILE.py:FACTORY`` rather than a file."""
    return ".py:" in spec


def open_model(
    model: Any, *, weights: str | Path | None = None, input_shape: Sequence[int] | None = None
) -> onnx.ModelProto:
    """The float model as ONNX.

    Args:
        model: path of an .onnx file, ``FILE.py:FACTORY``, an onnx.ModelProto or a torch module.
        weights: .safetensors, .npz or .pt file for a torch factory.
        input_shape: of the torch module's input, with the batch.

    Raises:
        ModelError, ExportError: see `load_onnx` and `converter.export`.
    """
    if isinstance(model, onnx.ModelProto):
        return upgrade_opset(model)
    if isinstance(model, (str, Path)) and not is_factory(str(model)):
        if weights is not None:
            raise ModelError(f"--weights is for FILE.py:FACTORY; {model} has its weights inside")
        return load_onnx(Path(model))
    from converter.export import export  # torch is an extra
    from converter.factory import load_module

    module = load_module(str(model), weights) if isinstance(model, (str, Path)) else model
    return export(module, tuple(input_shape or DEFAULT_INPUT_SHAPE)).model
