"""Layers that must stay in float between quantized tensors.

onnxruntime (1.20 and later, optimizer WeightBiasQuantization) rounds the float weight of a Conv, ConvTranspose or Gemm
to int8 with one scale for the whole tensor, unasked, where it stands between a DequantizeLinear and a QuantizeLinear,
clamps in between or not. A depthwise layer of EfficientNet-Lite0 that was left in float for its accuracy lost 10 dB of
the class scores by that. A Sum of one term after the layer, which adds nothing, is what it does not look through.
"""

from collections.abc import Mapping, Sequence

from onnx import NodeProto

__all__ = ["would_be_rounded"]

_ROUNDED = frozenset({"Conv", "ConvTranspose", "Gemm"})
_LOOKED_THROUGH = frozenset({"Relu", "Clip"})


def would_be_rounded(
    node: NodeProto, readers: Mapping[str, Sequence[NodeProto]], quantized: Mapping[str, object], written: str
) -> bool:
    """Whether onnxruntime would round the float weight of ``node``, whose input is quantized.

    Args:
        node: as it is in the float graph.
        readers: the float graph's nodes by the tensor they read.
        quantized: tensors that are quantized, by name.
        written: the tensor that the node writes in the file: its own, or that of a clamp left out.
    """
    if node.op_type not in _ROUNDED or node.input[0] not in quantized:
        return False
    name = written
    while name not in quantized:
        following = readers.get(name, ())
        if len(following) != 1 or following[0].op_type not in _LOOKED_THROUGH:
            return False
        name = following[0].output[0]
    return True
