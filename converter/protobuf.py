"""Copying parts of an ONNX protobuf without ever copying the weights."""

from typing import TypeVar

import onnx

__all__ = ["copy_fields"]

Message = TypeVar("Message", onnx.ModelProto, onnx.GraphProto)


def copy_fields(source: Message, copy: Message, *, skip: str) -> None:
    """Copy every field of `source` except `skip` into the empty message `copy` of the same type."""
    for field, value in source.ListFields():
        if field.name == skip:
            continue
        target = getattr(copy, field.name)
        if hasattr(target, "MergeFrom"):  # a message or a repeated field
            target.MergeFrom(value)
        else:
            setattr(copy, field.name, value)
