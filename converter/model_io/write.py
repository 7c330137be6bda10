"""Write a model to a file, with its weights beside it if they do not fit one protobuf."""

import itertools
import os
from pathlib import Path

import onnx
from onnx import TensorProto

from converter.model_io.protobuf import copy_fields
from converter.model_io.sizes import fits_one_file

__all__ = ["data_file", "data_files_of", "free_data_file", "write_onnx"]

_EXTERNAL_FROM = 1024  # bytes; smaller tensors (shapes, scales) stay inside the model
_ALIGNMENT = 4096  # bytes, so that runtimes can map the data file


def data_file(path: Path) -> Path:
    """Return the path of the weights that lie beside a model."""
    return path.with_name(path.name + ".data")


def free_data_file(path: Path) -> Path:
    """Return a path for the weights beside a model that no file has: OUT.onnx.data, OUT.onnx.1.data and so on."""
    names = (path.name + (f".{number}.data" if number else ".data") for number in itertools.count())
    return next(free for name in names if not (free := path.with_name(name)).exists())


def data_files_of(path: Path) -> set[Path]:
    """Return the files that `write_onnx` has put beside a model: those that the model names and that bear its name.

    The set is empty if the file does not exist or is not a model.
    """
    try:
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except Exception:  # protobuf's own error, or one of the system
        return set()
    named = {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    return {path.with_name(name) for name in named if name.startswith(f"{path.name}.") and name.endswith(".data")}


def write_onnx(
    model: onnx.ModelProto, written: Path, *, inline_limit: int | None = None, data_name: str | None = None
) -> None:
    """Write a model without a check. `model` does not change.

    Args:
        model: The model.
        written: Path of the file.
        inline_limit: Bytes of weights above which they go to a file beside it. None: what fits one file.
        data_name: Name of that file. None: that of `data_file`.
    """
    if not fits_one_file(model, inline_limit):
        beside = data_file(written) if data_name is None else written.with_name(data_name)
        with beside.open("wb") as data:
            model = _with_external_data(model, beside.name, data.fileno())
            os.fsync(data.fileno())
    with written.open("wb") as file:
        file.write(model.SerializeToString())
        file.flush()
        os.fsync(file.fileno())


def _with_external_data(model: onnx.ModelProto, location: str, file: int) -> onnx.ModelProto:
    """A copy of the model whose large initializers are written to the open `file`."""
    copy = onnx.ModelProto()
    copy_fields(model, copy, skip={"graph"})
    copy_fields(model.graph, copy.graph, skip={"initializer"})
    offset = 0
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        if len(raw) < _EXTERNAL_FROM:
            copy.graph.initializer.append(tensor)
            continue
        offset += -offset % _ALIGNMENT
        os.lseek(file, offset, os.SEEK_SET)
        view = memoryview(raw)
        while view:
            view = view[os.write(file, view) :]
        outside = copy.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        outside.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", str(offset)), ("length", str(len(raw)))):
            outside.external_data.add(key=key, value=value)
        offset += len(raw)
    return copy
