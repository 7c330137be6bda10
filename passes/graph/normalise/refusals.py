"""Refuse what no later pass can handle. The message names the node and the remedy."""

from collections.abc import Iterable

import numpy as np
import onnx_graphsurgeon as gs

from passes.errors import ModelError
from passes.ir.linear import LINEAR_OPS, RECURRENT_OPS
from passes.ir.surgery import is_default_domain

__all__ = ["refuse_unsupported"]

_ONNX_FLOATS = {16: "bfloat16", 17: "float8", 18: "float8", 19: "float8", 20: "float8"}  # codes of TensorProto.DataType
_OTHER_FLOATS = ("float16", "float64", *_ONNX_FLOATS.values())


def refuse_unsupported(graph: gs.Graph) -> None:
    """Check a graph whose constants are folded.

    Raises:
        ModelError: The graph has a node in training mode, only layers whose weights are not float32, or a
            layer or BatchNormalization with NaN or Inf in a constant, or an LSTM, GRU or RNN with it in a weight.
    """
    for node in graph.nodes:
        if node.op == "BatchNormalization":
            _refuse_training_batchnorm(node)
        if node.op == "Dropout" and len(node.inputs) > 2 and not node.inputs[2].is_empty():
            _refuse_training_dropout(node)
        if node.op in LINEAR_OPS or node.op == "BatchNormalization":
            _refuse_not_finite(node, node.inputs)
        if node.op in RECURRENT_OPS and is_default_domain(node):
            _refuse_not_finite(node, node.inputs[1:3])
    _refuse_other_floats(graph)


def _refuse_training_batchnorm(node: gs.Node) -> None:
    used = any(output.outputs for output in node.outputs[1:])
    if node.attrs.get("training_mode", 0) or used:
        raise ModelError(f"{_called(node)} is in training mode; call model.eval() before exporting")


def _refuse_training_dropout(node: gs.Node) -> None:
    mode = node.inputs[2]
    if not isinstance(mode, gs.Constant) or bool(np.any(mode.values)):
        raise ModelError(f"{_called(node)} is in training mode; call model.eval() before exporting")


def _refuse_other_floats(graph: gs.Graph) -> None:
    """Refuse a model whose layers all have weights of another float type. A few such layers stay as they are."""
    layers = [node for node in graph.nodes if node.op in LINEAR_OPS]
    others = [found for node in layers if (found := _other_float(node))]
    if others and len(others) == len(layers):
        raise ModelError(f"{others[0]}; export the model in float32")


def _other_float(node: gs.Node) -> str:
    """What is not float32 among the constants of a layer, or ""."""
    for tensor in node.inputs:
        if isinstance(tensor, gs.Constant):
            dtype = _ONNX_FLOATS.get(tensor.dtype) if isinstance(tensor.dtype, int) else np.dtype(tensor.dtype).name
            if dtype in _OTHER_FLOATS:
                return f"{tensor.name} is {dtype}"
    return ""


def _refuse_not_finite(node: gs.Node, weights: Iterable[gs.Tensor]) -> None:
    """Refuse NaN and Inf in constants of a layer.

    Elsewhere infinite constants are valid, as in a mask, a Clip or a bias that keeps a gate of an LSTM open.
    """
    for tensor in weights:
        if not isinstance(tensor, gs.Constant):
            continue
        values = np.asarray(tensor.values)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            kind = "NaN" if np.isnan(values).any() else "Inf"
            raise ModelError(
                f"{tensor.name}, which {_called(node)} reads, holds {kind}; export a model whose weights are finite"
            )


def _called(node: gs.Node) -> str:
    return node.name or f"the {node.op} that computes {node.outputs[0].name}"
