"""Write a model to a file, with its weights beside it if they do not fit one protobuf."""

import os
from pathlib import Path

import onnx
from onnx import TensorProto

from converter.model_io.protobuf import copy_fields
from converter.model_io.sizes import fits_one_file

__all__ = ["data_file", "write_onnx"]

_EXTERNAL_FROM = 1024  # bytes; smaller tensors (shapes, scales) stay inside the model
_ALIGNMENT = 4096  # bytes, so that runtimes can map the data file


def data_file(path: Path) -> Path:
    """Return the path of the weights that lie beside a model."""
    return path.with_name(path.name + ".data")


def write_onnx(model: onnx.ModelProto, written: Path, *, inline_limit: int | None = None) -> None:
    """Write a model without a check. `model` does not change.

    Args:
        model: The model.
        written: Path of the file.
        inline_limit: Bytes of weights above which they go to the `data_file` beside it. None: what fits one file.
    """
    if not fits_one_file(model, inline_limit):
        with data_file(written).open("wb") as data:
            model = _with_external_data(model, data_file(written).name, data.fileno())
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
