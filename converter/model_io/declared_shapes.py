"""Compare the shapes that a file declares with those that follow from its nodes, and keep what follows.

onnxruntime warns of a wrong shape and computes the right one. onnx's checker refuses the file, and a pass that trusts
the shape goes wrong. Wrong shapes are common: someone gave the input a free batch size and left the rest.
"""

import onnx
from onnx import TensorShapeProto, TypeProto, helper

from converter.model_io.check import check_model
from converter.model_io.light import light_model
from converter.model_io.protobuf import graphs, subgraphs

__all__ = ["correct_shapes"]


def correct_shapes(model: onnx.ModelProto) -> list[str]:
    """Correct declared shapes of outputs, and drop those of inner tensors if one of them is wrong. In place.

    Outputs without a declared type or shape get what can be inferred.

    Args:
        model: The model.

    Returns:
        A line for every kind of change.
    """
    inferred = _inferred(model)
    symbols = {dim.dim_param for value in model.graph.input for dim in value.type.tensor_type.shape.dim}
    notes = []
    for value in model.graph.output:
        known = inferred.get(value.name)
        if known is None:
            continue
        if not value.type.WhichOneof("value"):
            value.type.CopyFrom(known)
        declared = _text(value.type)
        if _corrected(value.type, known, symbols):
            notes.append(f"output {value.name} is declared {declared}, but is {_text(value.type)}; corrected")
    wrong = [
        value
        for value in model.graph.value_info
        if value.name in inferred and _contradicts(value.type, inferred[value.name], symbols)
    ]
    if wrong or _is_inconsistent(model):
        first = f" ({wrong[0].name} is declared {_text(wrong[0].type)})" if wrong else ""
        notes.append(f"shapes of inner tensors are declared wrong{first}; they are not used")
        _drop_inner_shapes(model.graph)
    return notes


def _drop_inner_shapes(graph: onnx.GraphProto) -> None:
    """Drop what a graph declares of inner tensors, and the graphs inside it of their outputs."""
    del graph.value_info[:]
    for node in graph.node:
        for body in subgraphs(node):
            for value in body.output:
                if value.type.HasField("tensor_type"):
                    value.type.tensor_type.ClearField("shape")
            _drop_inner_shapes(body)


def _inferred(model: onnx.ModelProto) -> dict[str, TypeProto]:
    """Types and shapes of the tensors of the graph that follow from its nodes and inputs alone."""
    light = light_model(model, drop=frozenset({"value_info"}))
    del light.graph.output[:]
    for graph in graphs(light.graph):
        del graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    stored = {
        tensor.name: helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
        for tensor in inferred.initializer
    }
    return {value.name: value.type for value in [*inferred.value_info, *inferred.input]} | stored


def _corrected(declared: TypeProto, known: TypeProto, symbols: set[str]) -> bool:
    """Give a declared type the sizes that are known. Return whether it was wrong and not only incomplete."""
    if not declared.HasField("tensor_type") or not known.tensor_type.HasField("shape"):
        return False
    wrong = _contradicts(declared, known, symbols)
    if not declared.tensor_type.HasField("shape"):
        declared.tensor_type.shape.CopyFrom(_named(known.tensor_type.shape, symbols))
    elif wrong:
        before = declared.tensor_type.shape
        after = _named(known.tensor_type.shape, symbols)
        if len(before.dim) == len(after.dim):
            for old, new in zip(before.dim, after.dim, strict=True):
                if not new.WhichOneof("value"):
                    new.CopyFrom(old)
        before.CopyFrom(after)
    return wrong


def _contradicts(declared: TypeProto, known: TypeProto, symbols: set[str]) -> bool:
    ours, theirs = declared.tensor_type, known.tensor_type
    if not ours.HasField("shape") or not theirs.HasField("shape"):
        return False
    if len(ours.shape.dim) != len(theirs.shape.dim):
        return True
    return any(
        old.HasField("dim_value")
        and ((new.HasField("dim_value") and new.dim_value != old.dim_value) or (new.dim_param in symbols - {""}))
        for old, new in zip(ours.shape.dim, theirs.shape.dim, strict=True)
    )


def _named(shape: TensorShapeProto, symbols: set[str]) -> TensorShapeProto:
    """The shape without the names that inference invents for unknown sizes."""
    copy = TensorShapeProto()
    copy.CopyFrom(shape)
    for dim in copy.dim:
        if dim.HasField("dim_param") and dim.dim_param not in symbols:
            dim.Clear()
    return copy


def _is_inconsistent(model: onnx.ModelProto) -> bool:
    try:
        check_model(model, full=True)
    except ValueError:
        return True
    return False


def _text(declared: TypeProto) -> str:
    """A shape as people write it, [1, n, ?]."""
    if not declared.tensor_type.HasField("shape"):
        return "of unknown shape"
    sizes = (dim.dim_param or (str(dim.dim_value) if dim.HasField("dim_value") else "?") for dim in _dims(declared))
    return f"[{', '.join(sizes)}]"


def _dims(declared: TypeProto) -> list[TensorShapeProto.Dimension]:
    return list(declared.tensor_type.shape.dim)
