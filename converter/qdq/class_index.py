"""The number of the best class as an output, in place of the scores of all classes."""

from collections.abc import Mapping

import onnx
from onnx import TensorProto, helper

from passes.errors import ModelError, UsageError
from passes.ir.surgery import fresh_name

__all__ = ["SCORES_KEY", "has_class_index", "require_scores", "with_class_index", "with_scores"]

SCORES_KEY = "convert_onnx.scores"
"""Metadata of a file with the number of the best class: name of the tensor of scores."""

_CLASSES = 1  # axis
_NAME = "class_index"


def require_scores(model: onnx.ModelProto) -> None:
    """Require that the first output has an axis of classes behind the batch: [n, classes] or [n, classes, h, w].

    Raises:
        UsageError: It has not, as far as the file says.
    """
    output = model.graph.output[0]
    tensor = output.type.tensor_type
    sizes = len(tensor.shape.dim) if tensor.HasField("shape") else None
    if tensor.elem_type != TensorProto.FLOAT or (sizes is not None and sizes <= _CLASSES):
        kind = TensorProto.DataType.Name(tensor.elem_type).lower()
        shown = "an unknown shape" if sizes is None else f"{sizes} axes"
        raise UsageError(
            f"`class_index=True` needs scores [n, classes] as the first output; {output.name!r} is {kind} with {shown}"
            "; leave it out"
        )


def with_class_index(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose first output is int64 `class_index` [n, ...]: the place of the largest score on axis 1.

    Of equal scores, the first one counts, as with numpy's argmax.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    scores = onnx.ValueInfoProto()
    scores.CopyFrom(graph.output[0])
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    taken |= {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    name = fresh_name(_NAME, taken)
    nodes = {node.name for node in graph.node}
    graph.node.append(
        helper.make_node("ArgMax", [scores.name], [name], fresh_name(_NAME, nodes), axis=_CLASSES, keepdims=0)
    )
    value = onnx.ValueInfoProto()
    value.name = name
    value.type.tensor_type.elem_type = TensorProto.INT64
    if scores.type.tensor_type.HasField("shape"):
        sizes = list(scores.type.tensor_type.shape.dim)
        value.type.tensor_type.shape.dim.extend([*sizes[:_CLASSES], *sizes[_CLASSES + 1 :]])
    graph.output[0].CopyFrom(value)
    graph.value_info.append(scores)
    result.metadata_props.add(key=SCORES_KEY, value=scores.name)
    return result


def has_class_index(metadata: Mapping[str, str]) -> bool:
    """Whether a file with these metadata has the number of the best class as its first output."""
    return SCORES_KEY in metadata


def with_scores(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a file with the number of the best class whose first output is the scores again.

    Raises:
        ModelError: The file names its scores and no longer describes them.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph, entries = result.graph, list(result.metadata_props)
    name = next(entry.value for entry in entries if entry.key == SCORES_KEY)
    index = graph.output[0].name
    scores = next((value for value in graph.value_info if value.name == name), None)
    if scores is None:
        raise ModelError(
            f"its metadata name the scores {name!r} behind the class, which the file no longer describes; convert the "
            "model again"
        )
    graph.output[0].CopyFrom(scores)
    kept = [node for node in graph.node if index not in node.output]
    values = [value for value in graph.value_info if value.name != name]
    for owner, field, content in (
        (graph, "node", kept),
        (graph, "value_info", values),
        (result, "metadata_props", [entry for entry in entries if entry.key != SCORES_KEY]),
    ):
        owner.ClearField(field)
        getattr(owner, field).extend(content)
    return result
