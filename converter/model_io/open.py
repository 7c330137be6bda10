"""A model from whatever the user named: an ONNX file, FILE.py:FACTORY, or an object in memory."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from converter.model_io.load import load_onnx, load_proto
from converter.model_io.python_spec import functions_of
from converter.qdq.stored_weights import Tensors
from passes.errors import ModelError, ShapeError, UsageError
from passes.ir.linear import LINEAR_OPS

__all__ = [
    "DEFAULT_INPUT_SHAPE",
    "ModelFile",
    "assumed_shape",
    "is_factory",
    "model_files",
    "open_model",
    "require_layers",
    "suggesting_shape",
]

DEFAULT_INPUT_SHAPE = (1, 3, 224, 224)


@dataclass(frozen=True)
class ModelFile:
    """An .onnx file to measure or look into, and what the user calls it."""

    name: str
    path: Path


def is_factory(spec: str) -> bool:
    """Whether ``spec`` is ``FILE.py:FACTORY`` rather than a file."""
    return ".py:" in spec


def assumed_shape(models: Sequence[Any], input_shape: Sequence[int] | None) -> str:
    """The input shape that a torch model among ``models`` is exported for because none was given; else nothing."""
    exported = [model for model in models if _is_exported(model)]
    return ",".join(map(str, DEFAULT_INPUT_SHAPE)) if exported and input_shape is None else ""


@contextlib.contextmanager
def suggesting_shape(assumed: str) -> Iterator[None]:
    """Where an input shape was ``assumed``, data that do not fit it may want another: the error says so."""
    try:
        yield
    except ShapeError as error:
        if not assumed:
            raise
        raise ShapeError(f"{error}; or, since {assumed} was only assumed, give --input-shape") from error


def open_model(
    model: Any, *, weights: str | Path | None = None, input_shape: Sequence[int] | None = None
) -> onnx.ModelProto:
    """The model as ONNX, of floats or in QDQ form (see `converter.qdq.reader`); the caller's own stays as it is.

    Args:
        model: path of an .onnx file, ``FILE.py:FACTORY``, an onnx.ModelProto or a torch module.
        weights: .safetensors, .npz or .pt file for a torch factory.
        input_shape: of the torch module's input, with the batch.

    Raises:
        UsageError: an empty name, a Python file without a factory, or an argument that does nothing for this model.
        ModelError, ExportError: see `load_onnx` and `converter.model_io.export`.
    """
    _check_arguments([model], weights, input_shape)
    if isinstance(model, onnx.ModelProto):
        return load_proto(model)
    if not _is_exported(model):
        return load_onnx(Path(model))
    from converter.model_io.export import export  # torch is an extra
    from converter.model_io.factory import load_module

    module = load_module(str(model), weights) if isinstance(model, (str, Path)) else model
    return export(module, tuple(input_shape or DEFAULT_INPUT_SHAPE)).model


def require_layers(model: onnx.ModelProto) -> None:
    """Refuse a model without a layer that can be quantized.

    Raises:
        ModelError: says what it holds instead.
    """
    found = sorted({node.op_type for node in Tensors.of(model.graph).nodes})
    if not LINEAR_OPS.intersection(found):
        raise ModelError(
            f"nothing to quantize: the model has no {', '.join(sorted(LINEAR_OPS))}, only {', '.join(found)}; "
            "give the model that holds the layers"
        )


@contextlib.contextmanager
def model_files(
    models: Sequence[str | Path], *, weights: str | Path | None = None, input_shape: Sequence[int] | None = None
) -> Iterator[list[ModelFile]]:
    """Models as files: an .onnx file itself, quantized or not; a factory's export, until the `with` block ends.

    Raises:
        UsageError, ExportError: as `open_model`.
    """
    _check_arguments(models, weights, input_shape)
    with tempfile.TemporaryDirectory(prefix="convert-onnx-") as folder:
        files = []
        for place, model in enumerate(models):
            path = Path(model)
            if _is_exported(model):
                from converter.model_io.save import write_onnx

                path = Path(folder) / f"{place}.onnx"
                write_onnx(open_model(model, weights=weights, input_shape=input_shape), path)
            files.append(ModelFile(str(model), path))
        yield files


def _is_exported(model: Any) -> bool:
    """Whether a model goes through torch's exporter."""
    return is_factory(str(model)) if isinstance(model, (str, Path)) else not isinstance(model, onnx.ModelProto)


def _check_arguments(models: Sequence[Any], weights: Any, input_shape: Any) -> None:
    for model in models:
        if isinstance(model, str) and not model:
            raise UsageError("the model's name is empty; give an .onnx file or FILE.py:FACTORY")
        if isinstance(model, (str, Path)) and Path(model).suffix == ".py":
            named = ", ".join(f"{model}:{name}" for name in functions_of(Path(model))) or f"{model}:FACTORY"
            raise UsageError(f"{model}: name the function in it that returns the model: {named}")
    names = " and ".join(str(model) if isinstance(model, (str, Path)) else type(model).__name__ for model in models)
    if weights is not None and not any(isinstance(model, (str, Path)) and is_factory(str(model)) for model in models):
        raise UsageError(f"--weights is for FILE.py:FACTORY; {names} has its weights inside")
    if input_shape is not None and not any(_is_exported(model) for model in models):
        raise UsageError(f"--input-shape is for FILE.py:FACTORY; {names} has its shape inside")
