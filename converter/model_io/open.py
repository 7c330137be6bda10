"""Open the model that the user named: an ONNX file, FILE.py:FACTORY, or an object in memory."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from converter.model_io.load import load_onnx, load_proto
from converter.model_io.python_spec import functions_of
from converter.model_io.save import write_onnx
from converter.qdq.stored_weights import Tensors
from passes.errors import ModelError, ShapeError, UsageError
from passes.ir.linear import LINEAR_OPS

__all__ = [
    "DEFAULT_INPUT_SHAPE",
    "ExportOptions",
    "ModelFile",
    "assumed_shape",
    "is_factory",
    "model_files",
    "open_model",
    "require_layers",
    "suggesting_shape",
]

_LOG = logging.getLogger(__name__)

DEFAULT_INPUT_SHAPE = (1, 3, 224, 224)


@dataclass(frozen=True)
class ExportOptions:
    """How a torch model becomes ONNX.

    Attributes:
        weights: .safetensors, .npz or .pt file for ``FILE.py:FACTORY``.
        input_shape: of the model's input, with the batch; (1, 3, 224, 224) if not given.

    Raises:
        UsageError: a size below 1.
    """

    weights: str | Path | None = None
    input_shape: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.input_shape is not None:
            object.__setattr__(self, "input_shape", tuple(self.input_shape))
            if not self.input_shape or min(self.input_shape) < 1:
                raise UsageError(
                    f"`input_shape={self.input_shape}` has a size below 1; give sizes such as 1, 3, 224, 224"
                )


@dataclass(frozen=True)
class ModelFile:
    """An .onnx file to measure or inspect, and the user's name for it."""

    name: str
    path: Path


def is_factory(spec: str) -> bool:
    """Whether ``spec`` is ``FILE.py:FACTORY``, and not a file."""
    return ".py:" in spec


def assumed_shape(models: Sequence[Any], export: ExportOptions) -> str:
    """The input shape that a torch model among ``models`` is exported for because none was given; else nothing."""
    exported = [model for model in models if _is_exported(model)]
    return ",".join(map(str, DEFAULT_INPUT_SHAPE)) if exported and export.input_shape is None else ""


@contextlib.contextmanager
def suggesting_shape(models: Sequence[Any], export: ExportOptions) -> Iterator[None]:
    """Where an input shape was assumed, data that do not fit it may want another: the error says so."""
    assumed = assumed_shape(models, export)
    try:
        yield
    except ShapeError as error:
        if not assumed:
            raise
        raise ShapeError(f"{error}; or, since {assumed} was only assumed, give `input_shape=`") from error


def open_model(model: Any, export: ExportOptions = ExportOptions()) -> onnx.ModelProto:
    """The model as ONNX, of floats or in QDQ form (see `converter.qdq.reader`); the caller's own stays as it is.

    Args:
        model: path of an .onnx file, ``FILE.py:FACTORY``, an onnx.ModelProto or a torch module.
        export: weights and input shape of a torch model.

    Raises:
        UsageError: The name is empty, a Python file has no factory name, or an argument does not apply to this model.
        ModelError: See `load_onnx`.
        ExportError: See `converter.model_io.export`.
    """
    _check_arguments([model], export)
    if isinstance(model, onnx.ModelProto):
        return load_proto(model)
    if not _is_exported(model):
        return load_onnx(Path(model))
    _say_assumed([model], export)
    return _exported(model, export)


def _say_assumed(models: Sequence[Any], export: ExportOptions) -> None:
    """Warn of an input shape that nobody gave."""
    if assumed := assumed_shape(models, export):
        _LOG.warning(f"inputs are assumed to be {assumed}; `input_shape=` gives another")


def _exported(model: Any, export: ExportOptions) -> onnx.ModelProto:
    """A torch module, or what its factory returns, as ONNX."""
    from converter.model_io.export import export as export_module  # torch is an extra
    from converter.model_io.factory import load_module

    module = load_module(str(model), export.weights) if isinstance(model, (str, Path)) else model
    return export_module(module, tuple(export.input_shape or DEFAULT_INPUT_SHAPE)).model


def require_layers(model: onnx.ModelProto) -> None:
    """Refuse a model without a layer that can be quantized.

    Raises:
        ModelError: There is no such layer. The message lists the operators that there are.
    """
    ops = sorted({node.op_type for node in Tensors.of(model.graph).nodes})
    if not LINEAR_OPS.intersection(ops):
        raise ModelError(
            f"nothing to quantize: the model has no {', '.join(sorted(LINEAR_OPS))}, only {', '.join(ops)}; "
            "give the model that holds the layers"
        )


@contextlib.contextmanager
def model_files(
    models: Sequence[Any],
    export: ExportOptions = ExportOptions(),
    names: Sequence[str] | None = None,
) -> Iterator[list[ModelFile]]:
    """Models as files: an .onnx file itself, quantized or not; others are written, and go when the `with` block ends.

    Args:
        models: in the forms of `open_model`.
        export: weights and input shape of torch models.
        names: what the models are called; their paths if not given, and "model 1" and so on in memory.

    Raises:
        UsageError: As for `open_model`.
        ExportError: As for `open_model`.
    """
    _check_arguments(models, export)
    _say_assumed(models, export)
    with tempfile.TemporaryDirectory(prefix="convert-onnx-") as folder:
        files = []
        for place, model in enumerate(models):
            if isinstance(model, (str, Path)) and not is_factory(str(model)):
                path = Path(model)
            else:
                path = Path(folder) / f"{place}.onnx"
                write_onnx(model if isinstance(model, onnx.ModelProto) else _exported(model, export), path)
            name = str(model) if isinstance(model, (str, Path)) else f"model {place + 1}"
            files.append(ModelFile(name if names is None else names[place], path))
        yield files


def _is_exported(model: Any) -> bool:
    """Whether torch's exporter makes the model."""
    return is_factory(str(model)) if isinstance(model, (str, Path)) else not isinstance(model, onnx.ModelProto)


def _check_arguments(models: Sequence[Any], export: ExportOptions) -> None:
    for model in models:
        if isinstance(model, str) and not model:
            raise UsageError("the model's name is empty; give an .onnx file or FILE.py:FACTORY")
        if isinstance(model, (str, Path)) and Path(model).suffix == ".py":
            named = ", ".join(f"{model}:{name}" for name in functions_of(Path(model))) or f"{model}:FACTORY"
            raise UsageError(f"{model}: name the function in it that returns the model: {named}")
    names = " and ".join(str(model) if isinstance(model, (str, Path)) else type(model).__name__ for model in models)
    if export.weights is not None and not any(
        isinstance(model, (str, Path)) and is_factory(str(model)) for model in models
    ):
        raise UsageError(f"`weights=` is for FILE.py:FACTORY; {names} has its weights inside")
    if export.input_shape is not None and not any(_is_exported(model) for model in models):
        raise UsageError(f"`input_shape=` is for FILE.py:FACTORY; {names} has its shape inside")
