"""Open the model that the user named: an ONNX file, FILE.py:FACTORY, or an object in memory."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from converter.model_io.example_inputs import example_inputs, parse_input
from converter.model_io.load import load_onnx, load_proto
from converter.model_io.protobuf import is_default_domain
from converter.model_io.python_spec import functions_of
from converter.model_io.scratch import scratch_folder
from converter.model_io.structure import model_bytes, read_structure
from converter.model_io.write import write_onnx
from converter.qdq.stored_weights import Tensors
from passes.arguments import require_number, require_type
from passes.errors import ModelError, ShapeError, UsageError
from passes.ir.bodies import bodies, tensors_read
from passes.ir.linear import LINEAR_OPS, RECURRENT_OPS, has_layers

if TYPE_CHECKING:
    from converter.model_io.export import ExportResult, Unjudged

__all__ = [
    "DEFAULT_INPUT_SHAPE",
    "ExportOptions",
    "ModelFile",
    "assumed_shape",
    "export_model",
    "is_factory",
    "model_files",
    "open_model",
    "open_unjudged",
    "original",
    "require_layers",
    "suggesting_shape",
]

_LOG = logging.getLogger(__name__)

DEFAULT_INPUT_SHAPE = (1, 3, 224, 224)
_EXPORTING = "torch export"


def _silent(what: str, done: int, total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class ExportOptions:
    """How a torch model becomes ONNX.

    Attributes:
        weights: .safetensors, .npz or .pt file for ``FILE.py:FACTORY``.
        input_shape: Shape of the model's input, with the batch. (1, 3, 224, 224) if not given. A module with several
            inputs needs a shape for each parameter of forward(), by name: ``{"image": (1, 3, 64, 64), "ids":
            "1,16:int64"}``. Types are float32, int64, int32 and bool.
        tolerance: Largest difference between onnxruntime and torch, as a fraction of the largest output. The default
            is 1e-4, or more for a module whose own outputs move by more when its inputs move by 1e-6. Samples of the
            data judge, or random inputs where there are no data.

    Raises:
        UsageError: A size is below 1, or the tolerance is not above 0.
    """

    weights: str | Path | None = None
    input_shape: Sequence[int] | Mapping[str, Any] | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.input_shape, Mapping):
            example_inputs(self.input_shape)
        elif isinstance(self.input_shape, str):
            raise UsageError(
                f"`input_shape={self.input_shape!r}` is not a list of sizes such as (1, 3, 224, 224); an input with a "
                "type needs its name: {'ids': '1,16:int64'}"
            )
        elif self.input_shape is not None:
            object.__setattr__(self, "input_shape", parse_input(self.input_shape).sizes)
        if self.tolerance is not None:
            require_number("tolerance", self.tolerance)
            if not self.tolerance > 0:
                raise UsageError(f"`tolerance={self.tolerance:g}` is not above 0; 1e-4 is the default")


@dataclass(frozen=True)
class ModelFile:
    """An .onnx file to measure or inspect.

    Attributes:
        name: The user's name of the model.
        path: Path of the file.
        exported: The exported model, if data will judge whether it is its module.
        given: The user's file, if ``path`` is a copy that takes other inputs.
    """

    name: str
    path: Path
    exported: "Unjudged | None" = None
    given: Path | None = None

    @property
    def bytes(self) -> int:
        """Size of the user's file, together with its external data."""
        return model_bytes(self.given or self.path)


def is_factory(spec: str) -> bool:
    """Whether ``spec`` is ``FILE.py:FACTORY`` and not the path of a file."""
    return ".py:" in spec


def assumed_shape(models: Sequence[Any], export: ExportOptions) -> str:
    """Return the default input shape if a torch model is exported without a given shape. Else return an empty text."""
    exported = [model for model in models if _is_exported(model)]
    return ",".join(map(str, DEFAULT_INPUT_SHAPE)) if exported and export.input_shape is None else ""


@contextlib.contextmanager
def suggesting_shape(models: Sequence[Any], export: ExportOptions) -> Iterator[None]:
    """Suggest `input_shape=` in errors on the shape of data, if the input shape of the model was only assumed."""
    assumed = assumed_shape(models, export)
    try:
        yield
    except ShapeError as error:
        if not assumed:
            raise
        raise ShapeError(f"{error}; or, since {assumed} was only assumed, give `input_shape=`") from error


def open_model(
    model: Any, export: ExportOptions = ExportOptions(), progress: Callable[[str, int, int], None] = _silent
) -> onnx.ModelProto:
    """Open a model as ONNX, in float or in QDQ form (see `converter.qdq.reader`). The caller's object is not changed.

    Args:
        model: Path of an .onnx file, ``FILE.py:FACTORY``, an onnx.ModelProto or a torch module.
        export: Weights and input shape of a torch model.
        progress: Callback for progress: torch takes its time to export a model.

    Raises:
        UsageError: The name is empty, a Python file has no factory name, or an argument does not apply to this model.
        ModelError: See `load_onnx`.
        ExportError: See `converter.model_io.export`.
    """
    opened, exported = open_unjudged(model, export, progress)
    if exported is not None:
        exported.judged()
    return opened


def open_unjudged(
    model: Any, export: ExportOptions = ExportOptions(), progress: Callable[[str, int, int], None] = _silent
) -> tuple[onnx.ModelProto, "Unjudged | None"]:
    """Open a model whose data are opened next, since they judge better than noise whether the export is right.

    Args:
        model, export, progress: As in `open_model`.

    Returns:
        The model. And if torch exported it, what has to be compared with the module.

    Raises:
        ConvertError: As in `open_model`.
    """
    _check_arguments([model], export)
    if isinstance(model, onnx.ModelProto):
        return load_proto(model), None
    if not _is_exported(model):
        return load_onnx(Path(model)), None
    progress(_EXPORTING, 0, 1)
    _say_assumed([model], export)
    exported = _exported(model, export)
    progress(_EXPORTING, 1, 1)
    return exported.model, exported


def original(model: Any, opened: onnx.ModelProto) -> Path | onnx.ModelProto:
    """Return what the caller gave, in a form that onnxruntime runs, before `open_model` changed it.

    Args:
        model: The model in a form of `open_model`.
        opened: Result of `open_model`. It stands for a torch model, which was compared with torch when it was exported,
            and for a model whose IR version was lowered, because onnxruntime may refuse that.
    """
    if _is_exported(model):
        return opened
    given = model if isinstance(model, onnx.ModelProto) else Path(model)
    newer = (given if isinstance(given, onnx.ModelProto) else read_structure(given)).ir_version > opened.ir_version
    return opened if newer else given


def _say_assumed(models: Sequence[Any], export: ExportOptions) -> None:
    """Warn if the input shape is assumed."""
    if assumed := assumed_shape(models, export):
        _LOG.warning(f"inputs are assumed to be {assumed}; `input_shape=` gives another")


def export_model(model: Any, export: ExportOptions = ExportOptions()) -> "ExportResult":
    """Export a torch module, or the module that a factory returns, as ONNX.

    Args:
        model: ``FILE.py:FACTORY`` or a torch module.
        export: Weights and input shape.

    Raises:
        UsageError: The model is ONNX already, or an argument does not apply to it.
        ExportError: See `converter.model_io.export`.
    """
    _check_arguments([model], export)
    if not _is_exported(model):
        name = str(model) if isinstance(model, (str, Path)) else "the model"
        raise UsageError(f"{name} is not exported by torch; give FILE.py:FACTORY or a torch module")
    _say_assumed([model], export)
    return _exported(model, export).judged()


def _exported(model: Any, export: ExportOptions) -> "Unjudged":
    from converter.model_io.export import export_unjudged  # torch is an extra
    from converter.model_io.factory import load_module

    module = load_module(str(model), export.weights) if isinstance(model, (str, Path)) else model
    return export_unjudged(module, export.input_shape or DEFAULT_INPUT_SHAPE, tolerance=export.tolerance)


def require_layers(model: onnx.ModelProto, *, recurrent: bool = True) -> None:
    """Refuse a model without a layer that can be quantized.

    Args:
        model: The model.
        recurrent: Whether LSTM, GRU and RNN count as layers, if their weights are constants.

    Raises:
        ModelError: There is no such layer. The message lists the operators of the model.
    """
    if recurrent and _has_recurrent_weights(model.graph):
        return
    nodes = Tensors.of(model.graph).nodes
    ops = sorted({node.op_type for node in nodes})
    outside = sorted(RECURRENT_OPS.intersection(node.op_type for node in model.graph.node))
    if LINEAR_OPS.isdisjoint(ops) and outside:
        if recurrent:
            raise ModelError(
                f"nothing to quantize: the weights of {', '.join(outside)} are no float32 constants, and the model has "
                "no other layers; export the model with its weights as constants"
            )
        raise ModelError(
            f"nothing to quantize: the recipe leaves {', '.join(outside)} in float, and the model has no other layers; "
            "use a recipe for weights only, such as int8-weight-only"
        )
    if LINEAR_OPS.isdisjoint(ops):
        raise ModelError(
            f"nothing to quantize: the model has no {', '.join(sorted(LINEAR_OPS))}, only {', '.join(ops)}; "
            "give the model that holds the layers"
        )
    if not has_layers(model.graph):
        count = sum(node.op_type in LINEAR_OPS for node in nodes)
        hosts = [f"{node.name or 'a node'} ({node.op_type})" for node in model.graph.node if bodies(node)]
        raise ModelError(
            f"nothing to quantize: all {count} layers are inside of {', '.join(hosts)}, and the bodies of loops "
            "stay in float; export the model without control flow, for instance with a fixed number of steps"
        )


def _has_recurrent_weights(graph: onnx.GraphProto) -> bool:
    """Whether both weights of an LSTM, GRU or RNN are constants, or are computed from constants alone."""
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    others = {name for name, kind in stored.items() if kind != onnx.TensorProto.FLOAT}
    active = {value.name for value in graph.input} - stored.keys()
    for node in graph.node:
        if node.op_type in RECURRENT_OPS and is_default_domain(node.domain):
            weights = [name for name in node.input[1:3] if name]
            if len(weights) == 2 and (active | others).isdisjoint(weights):
                return True
        if not active.isdisjoint(tensors_read(node)):
            active.update(node.output)
    return False


@contextlib.contextmanager
def model_files(
    models: Sequence[Any],
    export: ExportOptions = ExportOptions(),
    names: Sequence[str] | None = None,
    *,
    judged: bool = True,
) -> Iterator[list[ModelFile]]:
    """Yield models as files. An .onnx file is used as it is, quantized or not.

    Other models are written to temporary files, which are removed at the end of the `with` block.

    Args:
        models: Models in the forms of `open_model`.
        export: Weights and input shape of torch models.
        names: Names of the models. Without them, paths are used, and "model 1" and so on for models in memory.
        judged: Whether to compare exported models with their modules on noise. Else the caller has data for that, and
            calls `ModelFile.exported`.

    Raises:
        UsageError: As for `open_model`.
        ExportError: As for `open_model`.
    """
    _check_arguments(models, export)
    _say_assumed(models, export)
    with scratch_folder() as folder:
        files = []
        for index, model in enumerate(models):
            exported = _exported(model, export) if _is_exported(model) else None
            if exported is not None and judged:
                exported.judged()
            if isinstance(model, (str, Path)) and exported is None:
                path = Path(model)
            else:
                path = folder / f"{index}.onnx"
                write_onnx(model if exported is None else exported.model, path)
            name = str(model) if isinstance(model, (str, Path)) else f"model {index + 1}"
            files.append(ModelFile(name if names is None else names[index], path, None if judged else exported))
        yield files


def _is_module(model: Any) -> bool:
    """Whether the model is a torch module. If torch was not imported, there is none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def _is_exported(model: Any) -> bool:
    """Whether the model is exported by torch."""
    return is_factory(str(model)) if isinstance(model, (str, Path)) else not isinstance(model, onnx.ModelProto)


def _check_arguments(models: Sequence[Any], export: ExportOptions) -> None:
    require_type("export", export, ExportOptions, "converter.ExportOptions(...)")
    for model in models:
        if not isinstance(model, (str, Path, onnx.ModelProto)) and not _is_module(model):
            raise UsageError(
                f"a model is of type {type(model).__name__}; give an .onnx file, FILE.py:FACTORY, an onnx.ModelProto "
                "or a torch module"
            )
        if isinstance(model, str) and not model:
            raise UsageError("the model's name is empty; give an .onnx file or FILE.py:FACTORY")
        if isinstance(model, (str, Path)) and Path(model).suffix == ".py":
            examples = ", ".join(f"{model}:{name}" for name in functions_of(Path(model))) or f"{model}:FACTORY"
            raise UsageError(f"{model}: name the function in it that returns the model: {examples}")
    names = " and ".join(str(model) if isinstance(model, (str, Path)) else type(model).__name__ for model in models)
    if export.weights is not None and not any(
        isinstance(model, (str, Path)) and is_factory(str(model)) for model in models
    ):
        raise UsageError(f"`weights=` is for FILE.py:FACTORY; {names} contains its weights")
    if export.input_shape is not None and not any(_is_exported(model) for model in models):
        raise UsageError(f"`input_shape=` is for FILE.py:FACTORY; {names} contains its shape")
    if export.tolerance is not None and not any(_is_exported(model) for model in models):
        raise UsageError(f"`tolerance=` is for the export of FILE.py:FACTORY; {names} is not exported")
