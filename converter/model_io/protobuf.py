"""Iterate over an ONNX protobuf, and copy parts of it without copying the weights."""

from collections.abc import Iterator
from typing import TypeVar

import onnx

__all__ = ["all_tensors", "copy_fields"]

Message = TypeVar("Message", onnx.ModelProto, onnx.GraphProto)


def copy_fields(source: Message, copy: Message, *, skip: str) -> None:
    """Copy every field of `source` except `skip` into `copy`, an empty message of the same type."""
    for field, value in source.ListFields():
        if field.name == skip:
            continue
        target = getattr(copy, field.name)
        if hasattr(target, "MergeFrom"):  # a message or a repeated field
            target.MergeFrom(value)
        else:
            setattr(copy, field.name, value)


def all_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor stored in a graph and its subgraphs: initializers and attributes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for subgraph in [attribute.g, *attribute.graphs]:
                yield from all_tensors(subgraph)
