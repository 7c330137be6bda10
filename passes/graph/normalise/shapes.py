"""Shapes of a graph's tensors, from onnx's shape inference."""

import math

import onnx
import onnx_graphsurgeon as gs

from passes.errors import ModelError
from passes.ir.onnx_graph import export_graph

__all__ = ["Dim", "Shapes", "infer_shapes"]

Dim = int | str | None  # a size, the name of a dynamic size, or unknown
Shapes = dict[str, tuple[Dim, ...]]  # by tensor name; tensors of unknown rank are missing

_HEAVY = 1024  # elements; larger constants are never shapes, so inference needs only their type


def infer_shapes(graph: gs.Graph) -> Shapes:
    """Return the shapes of all tensors whose rank is known. The graph is not changed.

    Two dynamic dimensions of the same name are equal.

    Raises:
        ModelError: The shapes of the graph contradict each other.
    """
    model = export_graph(_without_heavy_constants(graph))
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(f"shapes cannot be inferred: {str(error).strip().splitlines()[0]}") from error
    shapes: Shapes = {name: tuple(t.shape) for name, t in graph.tensors().items() if isinstance(t, gs.Constant)}
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        if value.type.tensor_type.HasField("shape"):
            shapes[value.name] = tuple(_dim(dim) for dim in value.type.tensor_type.shape.dim)
    return shapes


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return dim.dim_value
    return dim.dim_param or None


def _without_heavy_constants(graph: gs.Graph) -> gs.Graph:
    """Return a copy in which large constants are graph inputs. It is fast, and always within protobuf's 2 GB."""
    copy = graph.copy()
    for tensor in copy.tensors().values():
        if isinstance(tensor, gs.Constant) and math.prod(tensor.shape) > _HEAVY:
            dtype, shape = tensor.dtype, list(tensor.shape)
            variable = tensor.to_variable(dtype, shape)
            variable.type = "tensor_type"  # graphsurgeon 0.6.1 does not set it
            copy.inputs.append(variable)
    return copy
