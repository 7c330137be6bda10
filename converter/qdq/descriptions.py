"""What a file says of itself and its tensors, kept in the file that is written from it.

graphsurgeon drops it: metadata, doc strings, version and domain of the model, docs and denotations of inputs, outputs
and nodes. The passes change none of this. A node or tensor that has another name afterwards loses its own.
"""

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

__all__ = ["OWN_PREFIX", "keep_descriptions"]

Described = ModelProto | GraphProto | NodeProto | ValueInfoProto | TensorProto

OWN_PREFIX = "convert_onnx."
"""Start of the metadata keys that a conversion writes itself."""
_PRODUCER = "source_producer"
"""Metadata key for the tool that wrote the source. The written file has a producer of its own."""


def keep_descriptions(written: ModelProto, source: ModelProto) -> None:
    """Give `written` the descriptions of `source`, the model that it was made from, in place.

    Args:
        written: The quantized model.
        source: The float model. Entries of an earlier conversion are left out.
    """
    written.domain, written.model_version = source.domain, source.model_version
    _describe(written, source)
    _keep_producer(written, source)
    written.graph.name = source.graph.name
    _describe(written.graph, source.graph)
    nodes = {node.name: node for node in source.graph.node if node.name}
    for node in written.graph.node:
        if node.name in nodes:
            _describe(node, nodes[node.name])
    tensors = {tensor.name: tensor for tensor in source.graph.initializer}
    for tensor in written.graph.initializer:
        if tensor.name in tensors:
            _describe(tensor, tensors[tensor.name])
    values = {value.name: value for value in (*source.graph.input, *source.graph.output)}
    for value in (*written.graph.input, *written.graph.output):
        if value.name in values:
            _describe(value, values[value.name])
            _denote(value.type, values[value.name].type)


def _describe(ours: Described, theirs: Described) -> None:
    """Copy the doc string and the metadata whose keys are not in use."""
    if theirs.doc_string:
        ours.doc_string = theirs.doc_string
    used = {entry.key for entry in ours.metadata_props}
    for entry in theirs.metadata_props:
        if entry.key not in used and not entry.key.startswith(OWN_PREFIX):
            ours.metadata_props.add(key=entry.key, value=entry.value)


def _keep_producer(written: ModelProto, source: ModelProto) -> None:
    given = f"{source.producer_name} {source.producer_version}".strip()
    kept = {entry.key for entry in written.metadata_props}
    if given and source.producer_name != written.producer_name and _PRODUCER not in kept:
        written.metadata_props.add(key=_PRODUCER, value=given)


def _denote(ours: TypeProto, theirs: TypeProto) -> None:
    """Copy what a type and its sizes stand for: "IMAGE", "DATA_BATCH". Copy a type that is missing."""
    if theirs.WhichOneof("value") not in {None, "tensor_type"} and ours.WhichOneof("value") is None:
        ours.CopyFrom(theirs)  # a sequence, map or optional value, for which the graph in memory has no type
    if theirs.denotation:
        ours.denotation = theirs.denotation
    for size, given in zip(ours.tensor_type.shape.dim, theirs.tensor_type.shape.dim, strict=False):
        if given.denotation:
            size.denotation = given.denotation
