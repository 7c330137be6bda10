"""Iterate over an ONNX protobuf, and copy parts of it without copying the weights."""

from collections.abc import Iterator, Set
from typing import TypeVar

import onnx

__all__ = [
    "all_tensors",
    "constant_tensors",
    "copy_fields",
    "default_opset",
    "function_nodes",
    "graphs",
    "is_default_domain",
    "model_graphs",
    "model_nodes",
    "model_tensors",
    "subgraphs",
    "tensor_names",
]

Message = TypeVar("Message", onnx.ModelProto, onnx.GraphProto)


def copy_fields(source: Message, copy: Message, *, skip: Set[str]) -> None:
    """Copy every field of `source` except those in `skip` into `copy`, an empty message of the same type."""
    for field, value in source.ListFields():
        if field.name in skip:
            continue
        target = getattr(copy, field.name)
        if hasattr(target, "MergeFrom"):  # a message or a repeated field
            target.MergeFrom(value)
        else:
            setattr(copy, field.name, value)


def all_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor stored in a graph and its subgraphs: initializers and attributes."""
    for each in graphs(graph):
        yield from each.initializer
        for node in each.node:
            yield from _attribute_tensors(node)


def _attribute_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors


def constant_tensors(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The initializers of a graph and the tensors of its Constant nodes, by name. Those of subgraphs are not in it."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output and node.attribute and node.attribute[0].HasField("t"):
            tensors[node.output[0]] = node.attribute[0].t
    return tensors


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that a node holds: branches of If, bodies of Loop and Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside it."""
    yield graph
    for node in graph.node:
        for body in subgraphs(node):
            yield from graphs(body)


def model_graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """Yield the graph of a model, all graphs inside it, and those inside its functions."""
    yield from graphs(model.graph)
    for function in model.functions:
        for node in function.node:
            for body in subgraphs(node):
                yield from graphs(body)


def function_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of all functions of a model, and those of the graphs inside them."""
    for function in model.functions:
        for node in function.node:
            yield node
            for body in subgraphs(node):
                for graph in graphs(body):
                    yield from graph.node


def model_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a model, those of the graphs inside it, and those of its functions."""
    for graph in graphs(model.graph):
        yield from graph.node
    yield from function_nodes(model)


def model_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor stored in a model and its functions: initializers and attributes."""
    for graph in model_graphs(model):
        yield from graph.initializer
    for node in model_nodes(model):
        yield from _attribute_tensors(node)


def tensor_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names of all tensors of a graph and of the graphs inside it, some of them more than once."""
    for each in graphs(graph):
        yield from (value.name for value in [*each.input, *each.output])
        yield from (tensor.name for tensor in each.initializer)
        yield from (tensor.values.name for tensor in each.sparse_initializer)
        for node in each.node:
            yield from node.input
            yield from node.output


def is_default_domain(domain: str) -> bool:
    """Whether a domain is that of ONNX's own operators."""
    return domain in ("", "ai.onnx")


def default_opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model imports, or 0."""
    return next((entry.version for entry in model.opset_import if is_default_domain(entry.domain)), 0)
