"""Read the graph of a large file without the values of its initializers, which may be most of its bytes.

A protobuf message is a sequence of fields: a tag, whose low three bits say how the value is written, then the value
(https://protobuf.dev/programming-guides/encoding). So the values of a tensor can be stepped over.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

import onnx

from converter.model_io.external_data import data_locations
from converter.model_io.files import is_utf8
from converter.model_io.load import read_onnx
from converter.model_io.sparse import require_sound_sparse

__all__ = ["model_bytes", "read_structure"]

_LARGE = 2**26
"""Bytes of a file above which its weights are stepped over."""
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER
_INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
_VALUES = frozenset(
    {
        onnx.TensorProto.RAW_DATA_FIELD_NUMBER,
        onnx.TensorProto.FLOAT_DATA_FIELD_NUMBER,
        onnx.TensorProto.DOUBLE_DATA_FIELD_NUMBER,
        onnx.TensorProto.INT32_DATA_FIELD_NUMBER,
        onnx.TensorProto.INT64_DATA_FIELD_NUMBER,
        onnx.TensorProto.UINT64_DATA_FIELD_NUMBER,
    }
)
_SMALL = 2**12
"""Bytes of values that are kept, as shapes and axes are among them."""


def read_structure(path: Path) -> onnx.ModelProto:
    """Read any ONNX file. In a large file, the initializers of the main graph have no values, apart from small ones.

    Raises:
        ModelError: As for `converter.model_io.load.read_onnx`.
    """
    if not path.is_file() or not is_utf8(path) or path.stat().st_size < _LARGE:
        return read_onnx(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            kept = _model(mapped)
        model = onnx.ModelProto()
        model.ParseFromString(kept)
    except Exception:  # protobuf's DecodeError has no type stubs; a damaged file is refused by its reader
        return read_onnx(path)
    require_sound_sparse(str(path), model)
    return model


def model_bytes(path: Path) -> int:
    """Size of a model file and the external data files that it names.

    Raises:
        ModelError: As for `read_onnx`, or an external data file is missing.
    """
    model = read_structure(path)
    files = [path, *data_locations(path, model)]
    return sum(file.stat().st_size for file in files)


def _model(data: mmap.mmap) -> bytes:
    parts = []
    for field, start, value, end in _fields(data, 0, len(data)):
        if field == _GRAPH:
            graph = _graph(data, value, end)
            parts.append(_tag(_GRAPH) + _varint(len(graph)) + graph)
        else:
            parts.append(data[start:end])
    return b"".join(parts)


def _graph(data: mmap.mmap, first: int, last: int) -> bytes:
    parts = []
    for field, start, value, end in _fields(data, first, last):
        if field == _INITIALIZER and end - value > _SMALL:
            inner = _fields(data, value, end)
            tensor = b"".join(data[at:stop] for name, at, _, stop in inner if name not in _VALUES)
            parts.append(_tag(_INITIALIZER) + _varint(len(tensor)) + tensor)
        else:
            parts.append(data[start:end])
    return b"".join(parts)


def _fields(data: mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, start, start of the value and end of every field between two offsets.

    Raises:
        ValueError: These bytes are no protobuf message.
    """
    while start < stop:
        tag, value = _read_varint(data, start)
        kind = tag & 7
        if kind == _VARINT:
            end = _read_varint(data, value)[1]
        elif kind == _DELIMITED:
            size, value = _read_varint(data, value)
            end = value + size
        elif kind in (_FIXED64, _FIXED32):
            end = value + (8 if kind == _FIXED64 else 4)
        else:
            raise ValueError(f"wire type {kind}")
        if end > stop:
            raise ValueError("a field ends behind its message")
        yield tag >> 3, start, value, end
        start = end


def _read_varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """Return a number and the offset behind it."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _tag(field: int) -> bytes:
    return _varint(field << 3 | _DELIMITED)


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)
