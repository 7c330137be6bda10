"""Replace calls of a model's own functions with the nodes of these functions."""

import onnx
from onnx import inliner

from converter.model_io.protobuf import copy_fields

__all__ = ["with_inlined_functions"]


def with_inlined_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without local functions. Its initializers and metadata are the same.

    onnx's inliner copies what it is given through protobuf. So it gets a model without initializers.
    """
    bare = onnx.ModelProto()
    copy_fields(model, bare, skip={"graph"})
    copy_fields(model.graph, bare.graph, skip={"initializer", "sparse_initializer"})
    known = {value.name for value in bare.graph.input}
    stored = [tensor for tensor in model.graph.initializer if tensor.name not in known]
    for tensor in stored:  # so that the inliner knows these names
        bare.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    inlined = inliner.inline_local_functions(bare, convert_version=True)
    del model.graph.node[:]
    model.graph.node.extend(inlined.graph.node)
    del model.functions[:]
    imported = {entry.domain for entry in model.opset_import}
    model.opset_import.extend(entry for entry in inlined.opset_import if entry.domain not in imported)
    return model
