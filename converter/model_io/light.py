"""A copy of a model without its large weights: small enough for onnx's functions, which copy it."""

import math

import onnx
from onnx import helper

from converter.model_io.protobuf import copy_fields

__all__ = ["light_model"]

_HEAVY = 1024  # elements; larger initializers are never shapes, so only their type matters


def light_model(model: onnx.ModelProto, *, drop: frozenset[str] = frozenset()) -> onnx.ModelProto:
    """Return a copy in which large initializers are graph inputs of the same name.

    Args:
        model: The model. It does not change, and the copy does not share with it.
        drop: Further fields of the graph that the copy leaves out.
    """
    light = onnx.ModelProto()
    copy_fields(model, light, skip={"graph"})
    copy_fields(model.graph, light.graph, skip={"initializer", *drop})
    listed = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _HEAVY:
            light.graph.initializer.append(tensor)
        elif tensor.name not in listed:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light
