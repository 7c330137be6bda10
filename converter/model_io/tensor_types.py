"""Types of the tensors of a model: what it declares and what onnx infers."""

import onnx
from onnx import TypeProto, helper

from converter.model_io.light import light_model

__all__ = ["declared_types", "inferred_types"]


def inferred_types(model: onnx.ModelProto) -> dict[str, TypeProto]:
    """Types of the tensors of the graph, as far as onnx can infer them. Tensors of subgraphs are not among them."""
    light = light_model(model)
    try:
        return declared_types(onnx.shape_inference.infer_shapes(light).graph)
    except onnx.shape_inference.InferenceError:
        return declared_types(light.graph)


def declared_types(graph: onnx.GraphProto) -> dict[str, TypeProto]:
    """Types that a graph declares, and those of its initializers."""
    types = {value.name: value.type for value in [*graph.input, *graph.value_info, *graph.output]}
    for tensor in graph.initializer:
        types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
    return types
