"""Biases of integer layers: int32 codes, whose scale is the input's scale times the weight's."""

import numpy as np
from onnx import NodeProto, TensorProto

from converter.qdq.fragment import Fragment, Names
from converter.qdq.stored_weights import Tensors
from passes.errors import TargetError
from passes.ir.linear import Linear
from passes.numerics.grid import ActivationGrid, Floats, Grid

__all__ = ["int32_bias", "rounded_floats", "shared_bias"]

_LIMIT = 2**31 - 1


def int32_bias(layer: Linear, bias: Floats, inputs: ActivationGrid, grid: Grid, names: Names) -> Fragment:
    """The bias as codes in the file.

    Raises:
        TargetError: A code does not fit 32 bits.
    """
    scale = (inputs.scale * grid.scale.reshape(-1)).astype(np.float32)
    codes = _codes(layer, bias, scale)
    name = layer.bias or f"{layer.name}.bias"
    fragment = Fragment(names)
    parts = [
        fragment.constant(f"{name}_int32", codes.astype(np.int32)),
        fragment.constant(f"{name}_scale", scale),
        fragment.constant(f"{name}_zero_point", np.zeros(scale.shape, np.int32)),
    ]
    fragment.node("DequantizeLinear", f"{name}_dequantize", parts, f"{name}_dequantized", axis=0)
    return fragment


def shared_bias(layer: Linear, bias: Floats, inputs: ActivationGrid, grid: Grid, names: Names) -> Fragment:
    """The bias of layers that share it, and a weight, on different inputs: the file has the floats, once.

    The codes of each layer are computed from them. onnxruntime does so when it loads the file.

    Raises:
        TargetError: A code does not fit 32 bits.
    """
    _codes(layer, bias, (inputs.scale * grid.scale.reshape(-1)).astype(np.float32))
    fragment, name = Fragment(names), f"{layer.name}.bias"
    values = fragment.shared(f"{layer.bias}_floats", bias.reshape(-1).astype(np.float32))
    weight_scale = fragment.shared(f"{layer.weight}_bias_scale", grid.scale.reshape(-1))
    input_scale = fragment.constant(f"{name}_input_scale", np.asarray(inputs.scale, np.float32))
    scale = fragment.node("Mul", f"{name}_scale", [weight_scale, input_scale], f"{name}_scale")
    steps = fragment.node("Div", f"{name}_divide", [values, scale], f"{name}_steps")
    whole = fragment.node("Round", f"{name}_round", [steps], f"{name}_rounded")
    codes = fragment.node("Cast", f"{name}_cast", [whole], f"{name}_int32", to=TensorProto.INT32)
    fragment.node("DequantizeLinear", f"{name}_dequantize", [codes, scale], f"{name}_dequantized", axis=0)
    return fragment


def rounded_floats(dequantize: NodeProto, tensors: Tensors) -> str | None:
    """The floats of a bias in the form of `shared_bias`, given its DequantizeLinear. None for any other node."""
    chain = [dequantize]
    for op in ("Cast", "Round", "Div"):
        maker = tensors.makers.get(chain[-1].input[0])
        if maker is None or maker.op_type != op:
            return None
        chain.append(maker)
    values, scale = chain[-1].input
    return values if values in tensors.constants and scale == dequantize.input[1] else None


def _codes(layer: Linear, bias: Floats, scale: Floats) -> Floats:
    values = bias.reshape(-1).astype(np.float64)
    codes: Floats = np.rint(
        np.divide(values, scale, out=np.copysign(np.where(values, np.inf, 0.0), values), where=scale > 0)
    )
    if np.abs(codes).max(initial=0) > _LIMIT:
        raise TargetError(
            f"{layer.name}: bias {bias.flat[int(np.abs(codes).argmax())]:g} does not fit 32 bits at scale "
            f"{scale[int(np.abs(codes).argmax())]:g}; this layer needs a larger weight scale"
        )
    return codes
