"""Files with their preprocessing inside that take images of any size: resizing and cropping are in the graph too.

They are written last, when everything has been measured on images of the model's own size. `evaluate`, `compare` and
`verify` judge such a file without these nodes, so that they can resize outside and compare it with others.
"""

import dataclasses

import onnx

from converter.data.embedding import Embedded, embedded_preprocess
from converter.data.inputs import input_specs
from converter.data.preprocess import METADATA_KEY, Preprocess
from converter.model_io.image_fit import ImageFit, fitted
from passes.errors import UsageError

__all__ = ["ANY_SIZE_KEY", "has_any_size", "require_any_size", "with_any_size", "without_any_size"]

ANY_SIZE_KEY = "convert_onnx.any_size"
"""Metadata of such a file: name of the tensor that has the model's own size."""

_PAD = 114  # as in `converter.data.preprocess`
_LEAVE = "leave out `embed_resize=`"


def require_any_size(preprocess: Preprocess, image: str | None, *, fixed: bool) -> None:
    """Require preprocessing that the graph can do.

    Args:
        preprocess: The whole preprocessing.
        image: `Settings.embed_preprocess`.
        fixed: Whether the target needs fixed shapes.

    Raises:
        UsageError: It cannot. The message says why.
    """
    if image is None:
        raise UsageError("`embed_resize=True` needs `embed_preprocess=`, such as 'nhwc'; give both")
    if fixed:
        raise UsageError(f"`embed_resize=True` takes images of any size, and the target needs fixed shapes; {_LEAVE}")
    if preprocess.resize is None and preprocess.letterbox is None:
        raise UsageError(
            "`embed_resize=True` needs `resize=` or `letterbox=`, so that images of any size fit; give one"
        )
    filter_name = preprocess.interpolation or "bilinear"
    if filter_name != "bilinear":
        raise UsageError(
            f"`embed_resize=True`: no operator of ONNX resizes as Pillow's {filter_name} filter does; use bilinear, or "
            f"{_LEAVE}"
        )


def has_any_size(model: onnx.ModelProto) -> bool:
    """Whether a file resizes its images inside."""
    return any(entry.key == ANY_SIZE_KEY for entry in model.metadata_props)


def with_any_size(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a file with its preprocessing inside that takes images of any size."""
    result, embedded = onnx.ModelProto(), embedded_preprocess(model)
    assert embedded is not None
    result.CopyFrom(model)
    graph, used = result.graph, embedded.preprocess
    own = next(value for value in graph.input if value.name == embedded.input)
    shape = next(spec.shape for spec in input_specs(model) if spec.name == embedded.input)
    first = 1 if embedded.image.layout == "nhwc" else 2
    fit = ImageFit(used.resize, used.crop, used.letterbox, _PAD if used.pad is None else used.pad)
    nodes, tensors, inner = fitted(graph, own.name, first, fit, shape)
    for node in graph.node:
        node.input[:] = [inner if name == own.name else name for name in node.input]
    inside = onnx.ValueInfoProto()
    inside.CopyFrom(own)
    inside.name = inner
    graph.value_info.append(inside)
    for axis, side in ((first, "height"), (first + 1, "width")):
        own.type.tensor_type.shape.dim[axis].dim_param = side
    _set_nodes(graph, [*nodes, *graph.node])
    graph.initializer.extend(tensors)
    _store(result, embedded, inner)
    return result


def without_any_size(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of such a file that takes images of the model's own size."""
    result, embedded = onnx.ModelProto(), embedded_preprocess(model)
    assert embedded is not None
    result.CopyFrom(model)
    graph = result.graph
    inner = next(entry.value for entry in model.metadata_props if entry.key == ANY_SIZE_KEY)
    own = next(value for value in graph.input if value.name == embedded.input)
    own.type.CopyFrom(next(value for value in graph.value_info if value.name == inner).type)
    written = _in_front_of(graph, inner)
    kept = [node for node in graph.node if node.output[0] not in written]
    for node in kept:
        node.input[:] = [own.name if name == inner else name for name in node.input]
    read = {name for node in graph.node if node.output[0] in written for name in node.input}
    read -= {name for node in kept for name in node.input}
    _set_nodes(graph, kept)
    for field, gone in (("initializer", read), ("value_info", written)):
        content = [each for each in getattr(graph, field) if each.name not in gone]
        graph.ClearField(field)
        getattr(graph, field).extend(content)
    _store(result, embedded, None)
    return result


def _in_front_of(graph: onnx.GraphProto, tensor: str) -> set[str]:
    """Return the tensor and all that nodes in front of it write."""
    makers = {name: node for node in graph.node for name in node.output}
    written, waiting = set[str](), [tensor]
    while waiting:
        name = waiting.pop()
        if name in makers and name not in written:
            written.add(name)
            waiting += makers[name].input
    return written


def _store(model: onnx.ModelProto, embedded: Embedded, inner: str | None) -> None:
    """Store what is left to do outside, and the tensor of the model's own size."""
    outside = embedded.outside
    if inner is not None:
        none = dict.fromkeys(("resize", "crop", "letterbox", "pad", "interpolation"))
        outside = dataclasses.replace(outside, **none)
        model.metadata_props.add(key=ANY_SIZE_KEY, value=inner)
    entries = [entry for entry in model.metadata_props if inner is not None or entry.key != ANY_SIZE_KEY]
    for entry in entries:
        entry.value = outside.to_json() if entry.key == METADATA_KEY else entry.value
    copies = [onnx.StringStringEntryProto.FromString(entry.SerializeToString()) for entry in entries]
    del model.metadata_props[:]
    model.metadata_props.extend(copies)


def _set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    graph.ClearField("node")
    graph.node.extend(copies)
