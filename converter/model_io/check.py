"""onnx's checker, for models of any size and with outputs whose shape nothing says."""

import math

import onnx
from onnx import TensorProto, helper

from converter.model_io.light import light_model
from converter.model_io.protobuf import default_opset, graphs
from converter.model_io.sizes import stored_bits

__all__ = ["check_model", "runtime_ops"]

_UNKNOWN_DOMAIN = "converter.unchecked"


def runtime_ops(opset: int) -> frozenset[str]:
    """Operators that onnxruntime adds to the domain of ONNX's own operators, and ONNX does not have at this opset."""
    return frozenset({"SimplifiedLayerNormalization"} | ({"LayerNormalization"} if opset < 17 else set()))


def check_model(model: onnx.ModelProto, *, full: bool = False) -> None:
    """Check a model. It does not change.

    The checker copies what it gets, and protobuf ends at 2 GB. So it does not see large weights, whose size is checked
    here. It also does not see what it refuses and onnxruntime accepts: outputs without a shape, some operators.

    Args:
        model: The model.
        full: Whether shapes are inferred too, and contradictions refused.

    Raises:
        ValueError: The checker refuses the model, or a weight has another size than its dimensions say.
    """
    light = light_model(model)
    _hide(light)
    shaped = [value for value in light.graph.output if _is_shaped(value)]
    del light.graph.output[:]
    light.graph.output.extend(shaped)
    try:
        onnx.checker.check_model(light, full_check=full)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(str(error).strip()) from error
    for tensor in model.graph.initializer:
        _check_bytes(tensor)


def _hide(model: onnx.ModelProto) -> None:
    """Move operators that onnx refuses and onnxruntime runs to a domain that onnx does not know.

    - MeanVarianceNormalization: onnx 1.23 cannot infer its function body.
    - GroupNormalization of opset 18 to 20 is deprecated.
    - `runtime_ops` are onnxruntime's own.
    """
    opset = default_opset(model)
    refused = {"MeanVarianceNormalization"} | runtime_ops(opset) | ({"GroupNormalization"} if opset < 21 else set())
    model.opset_import.append(helper.make_opsetid(_UNKNOWN_DOMAIN, 1))
    for graph in graphs(model.graph):
        for node in graph.node:
            if node.op_type in refused and not node.domain:
                node.domain = _UNKNOWN_DOMAIN


def _is_shaped(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.WhichOneof("value")
    return kind is not None and (kind != "tensor_type" or value.type.tensor_type.HasField("shape"))


def _check_bytes(tensor: TensorProto) -> None:
    """Require as many bytes as the dimensions say. Tensors that do not store bytes are checked by their reader."""
    if tensor.HasField("segment"):
        raise ValueError(f"{tensor.name} is a segment of a tensor, which onnx cannot read")
    if not tensor.raw_data or tensor.data_type == TensorProto.STRING:
        return
    expected = -(-math.prod(tensor.dims) * stored_bits(tensor.data_type) // 8)
    if len(tensor.raw_data) != expected:
        raise ValueError(f"{tensor.name} {list(tensor.dims)} has {len(tensor.raw_data):,} bytes, not {expected:,}")
