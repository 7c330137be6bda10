"""Write a file in which onnxruntime dequantizes no weight of a layer on every run.

onnxruntime folds constants when it loads a file, but no DequantizeLinear. If it finds no integer operator for a layer,
because another of its fusions came first, then it dequantizes the layer's weight on every run, which takes many times
as long as float. So the graph that it makes of the file is read. Such layers get float activations, and their weights
the weight-only form, which is folded.
"""

import logging

import onnx

from converter.qdq.layer_forms import runs_on_integers
from converter.qdq.stored_weights import Tensors, find_weight
from converter.qdq.weights import Storage
from converter.qdq.writer import emit
from converter.runtime.optimized_graph import OptimizedGraph
from converter.targets.target import Target
from passes.activations.activation_ranges import placement_of
from passes.ir.model import Model

__all__ = ["emit_fused"]

_LOG = logging.getLogger(__name__)
_REASON = "float activations, for onnxruntime fuses no integer operator here"


def emit_fused(model: Model, storage: Storage, target: Target) -> onnx.ModelProto:
    """Write a model as quantized ONNX, with every layer in its smallest form. See `converter.qdq.writer.emit`.

    Args:
        model: The model. Layers that onnxruntime does not fuse are added to `Model.float_activations`.
        storage: Storage form of the weights.
        target: Target of the file. Only for a target of onnxruntime's CPU kernels is there something to do.

    Raises:
        TargetError: See `converter.qdq.writer.emit`.
    """
    quantized = emit(model, storage, smallest=True)
    if not target.cpu_kernels or storage == "dequantize":
        return quantized
    while slow := _dequantized_every_run(model, quantized):
        _LOG.warning(
            f"{', '.join(slow)}: onnxruntime would dequantize the weight on every run; the layer runs in float"
        )
        model.float_activations |= dict.fromkeys(slow, _REASON)
        placed = placement_of(model).tensors
        model.activation_qparams = {name: grid for name, grid in model.activation_qparams.items() if name in placed}
        quantized = emit(model, storage, smallest=True)
    return quantized


def _dequantized_every_run(model: Model, quantized: onnx.ModelProto) -> list[str]:
    """Return the layers on integers whose weight onnxruntime dequantizes on every run."""
    integer = {name for name, layer in model.layers().items() if runs_on_integers(model, layer)}
    if not integer:
        return []
    optimized, tensors = OptimizedGraph.open(quantized), Tensors.of(quantized.graph)
    layers = [node for node in tensors.nodes if node.name in integer]
    return [node.name for node in layers if optimized.dequantizes_every_run(find_weight(node, tensors))]
