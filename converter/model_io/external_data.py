"""Weights in files beside a model."""

import math
from pathlib import Path

import onnx
from onnx import TensorProto

from converter.model_io.protobuf import model_tensors
from converter.model_io.sizes import stored_bits
from passes.errors import ModelError, first_line

__all__ = ["data_locations", "load_external_data"]


def load_external_data(path: Path, model: onnx.ModelProto) -> None:
    """Read the weights that lie beside a model into it. They must be in the model's own folder.

    Raises:
        ModelError: A file is missing, outside of the folder or too short, or a place in it is not a number.
    """
    for tensor in _outside(model):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        data = _data_file(path, tensor.name, entries.get("location", ""))
        offset, length = (_place(path, tensor.name, key, entries.get(key) or "0") for key in ("offset", "length"))
        needed = -(-math.prod(tensor.dims) * stored_bits(tensor.data_type) // 8)
        if (end := offset + (length or needed)) > data.stat().st_size:
            raise ModelError(
                f"{data} is truncated: {tensor.name} ends at byte {end:,} of {data.stat().st_size:,}; "
                "export or download it again"
            )
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # the helper raises ValidationError, ValueError or OSError, all about these data
        raise ModelError(f"{path}: the external data cannot be read: {first_line(error)}") from error


def data_locations(path: Path, model: onnx.ModelProto) -> list[Path]:
    """Return the files that hold weights of a model.

    Raises:
        ModelError: A file is missing or outside of the folder.
    """
    names = {
        (tensor.name, entry.value)
        for tensor in _outside(model)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return sorted({_data_file(path, name, location) for name, location in names})


def _outside(model: onnx.ModelProto) -> list[TensorProto]:
    return [tensor for tensor in model_tensors(model) if tensor.data_location == TensorProto.EXTERNAL]


def _data_file(path: Path, tensor: str, location: str) -> Path:
    data = path.parent / location
    try:
        if location and data.is_file():
            if path.parent.resolve() in data.resolve().parents:
                return data
            raise ModelError(
                f"{path}: the external data of {tensor} are in {location!r}, which is or leads out of the model's "
                "folder; copy the file into it"
            )
    except (OSError, ValueError):  # a name that is too long, or with a zero byte
        pass
    raise ModelError(
        f"{path}: the external data of {tensor} are missing: "
        f"no file {location!r} beside it; put the data file into the model's folder"
    )


def _place(path: Path, tensor: str, key: str, value: str) -> int:
    """A number of bytes. Python refuses to read numbers of more than 4,300 digits."""
    if not (value.isascii() and value.isdigit() and len(value) < 20):
        shown = value if len(value) < 20 else f"{value[:20]}..."
        raise ModelError(f"{path}: the {key} of the external data of {tensor} is {shown!r}, not a number of bytes")
    return int(value)
