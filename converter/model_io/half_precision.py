"""Read float16 and bfloat16 as float32. Every value of theirs is one of float32, so weights do not change.

Passes compute in float32, and a file keeps its interface: inputs and outputs of the graph keep their types through
Casts. Inside, results are no longer rounded to 16 bits.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

from converter.model_io.protobuf import all_tensors, graphs, subgraphs, tensor_names
from converter.model_io.tensor_types import declared_types, inferred_types
from passes.errors import ModelError
from passes.ir.fresh_name import fresh_name

__all__ = ["widen_halves"]

_HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "output_datatype", "stash_type", "softmax_precision"})


def widen_halves(model: onnx.ModelProto) -> list[str]:
    """Replace 16-bit floats by float32, in place. Local functions are inlined already.

    Returns:
        A line that says so, or nothing.

    Raises:
        ModelError: An input or output is a sequence or another container of 16-bit floats.
    """
    found = set(_halves(model.graph))
    if not found:
        return []
    interface = {value.name: _interface_type(value) for value in (*model.graph.input, *model.graph.output)}
    for tensor in all_tensors(model.graph):
        if tensor.data_type in _HALVES:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for graph in graphs(model.graph):
        for value in (*graph.input, *graph.value_info, *graph.output):
            for holder in _element_types(value.type):
                holder.elem_type = TensorProto.FLOAT if holder.elem_type in _HALVES else holder.elem_type
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _HALVES:
                    attribute.i = TensorProto.FLOAT
    _drop_casts(model.graph, inferred_types(model))
    _restore_interface(model.graph, {name: kind for name, kind in interface.items() if kind in _HALVES})
    kinds = " and ".join(sorted(TensorProto.DataType.Name(kind).lower() for kind in found))
    return [f"{kinds} is read as float32, which is exact; inputs and outputs keep their types"]


def _halves(graph: GraphProto) -> Iterator[int]:
    """Yield the 16-bit types of tensors, values and nodes of a graph and those inside it."""
    yield from (tensor.data_type for tensor in all_tensors(graph) if tensor.data_type in _HALVES)
    for each in graphs(graph):
        for value in (*each.input, *each.value_info, *each.output):
            yield from (holder.elem_type for holder in _element_types(value.type) if holder.elem_type in _HALVES)
        for node in each.node:
            for attribute in node.attribute:
                if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _HALVES:
                    yield attribute.i


def _element_types(declared: TypeProto) -> Iterator[TypeProto.Tensor | TypeProto.SparseTensor]:
    """Yield what holds an element type: a tensor's type, or that of the tensors in a sequence, map or optional."""
    kind = declared.WhichOneof("value")
    if kind in {"tensor_type", "sparse_tensor_type"}:
        yield getattr(declared, kind)
    elif kind in {"sequence_type", "optional_type"}:
        yield from _element_types(getattr(declared, kind).elem_type)
    elif kind == "map_type":
        yield from _element_types(declared.map_type.value_type)


def _interface_type(value: onnx.ValueInfoProto) -> int:
    """The element type of a tensor at the graph's boundary, or 0."""
    if value.type.HasField("tensor_type"):
        return value.type.tensor_type.elem_type
    if any(holder.elem_type in _HALVES for holder in _element_types(value.type)):
        raise ModelError(f"{value.name} holds several tensors of 16-bit floats; export the model in float32")
    return 0


def _drop_casts(graph: GraphProto, types: Mapping[str, TypeProto]) -> None:
    """Make an Identity of every Cast from float32 to float32."""
    types = {**types, **declared_types(graph)}
    for node in graph.node:
        for body in subgraphs(node):
            _drop_casts(body, types)
        if node.op_type != "Cast" or node.domain or node.input[0] not in types:
            continue
        to = next((attribute.i for attribute in node.attribute if attribute.name == "to"), 0)
        if to == types[node.input[0]].tensor_type.elem_type == TensorProto.FLOAT:
            node.op_type = "Identity"
            del node.attribute[:]


def _restore_interface(graph: GraphProto, kinds: Mapping[str, int]) -> None:
    """Give inputs and outputs their types again. The graph computes on float32 between Casts."""
    taken = set(tensor_names(graph))
    inputs = [value for value in graph.input if value.name in kinds]
    outputs = [value for value in graph.output if value.name in kinds and value.name not in {i.name for i in inputs}]
    renamed = {value.name: fresh_name(f"{value.name}_float32", taken) for value in (*inputs, *outputs)}
    passed_on = [value.name for value in graph.output]
    _rename(graph, renamed)
    for value, name in zip(graph.output, passed_on, strict=True):
        value.name = name
    first = [_cast(value.name, renamed[value.name], TensorProto.FLOAT) for value in inputs]
    last = [_cast(renamed[value.name], value.name, kinds[value.name]) for value in outputs]
    for value in (*inputs, *outputs):
        value.type.tensor_type.elem_type = kinds[value.name]
    for value in graph.output:
        if value.name in kinds:
            value.type.tensor_type.elem_type = kinds[value.name]
    nodes = [*first, *graph.node, *last]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Rename tensors that nodes of a graph, and of the graphs inside it, read and write."""
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for value in (*graph.value_info, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for body in subgraphs(node):
            _rename(body, names)


def _cast(source: str, result: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [result], to=kind)
