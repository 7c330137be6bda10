"""Invariants of a model, checked after every pass. A violation is a bug of the pass that just ran."""

import numpy as np
import onnx_graphsurgeon as gs

from passes.errors import QuantizationError
from passes.ir.linear import Linear
from passes.ir.model import Model, Quantized

__all__ = ["check"]


def check(model: Model, after: str) -> None:
    """Check names, connections and codes.

    Args:
        model: The model.
        after: Name of the pass that just ran.

    Raises:
        QuantizationError: An invariant is violated. The message says which one, and where.
    """
    problem = _wiring(model.graph) or _codes(model)
    if problem:
        raise QuantizationError(f"after {after}: {problem}; please report this with the model")


def _wiring(graph: gs.Graph) -> str | None:
    names: set[str] = set()
    written = {tensor.name for tensor in graph.inputs}
    for node in graph.nodes:
        if not node.name or node.name in names:
            return f"two nodes are named {node.name!r}" if node.name else f"a {node.op} node has no name"
        names.add(node.name)
        for tensor in node.outputs:
            if tensor.name and tensor.name in written:
                return f"two nodes write {tensor.name!r}"
            written.add(tensor.name)
    for node in graph.nodes:
        for tensor in node.inputs:
            if isinstance(tensor, gs.Variable) and tensor.name and tensor.name not in written:
                return f"{node.name} reads {tensor.name!r}, which nothing writes"
    for tensor in graph.outputs:
        if tensor.name not in written and not isinstance(tensor, gs.Constant):
            return f"nothing writes the output {tensor.name!r}"
    return _constants(graph)


def _constants(graph: gs.Graph) -> str | None:
    """Find two constants with the same name. onnx-graphsurgeon would export only the first of them."""
    seen: dict[str, gs.Constant] = {}
    for node in graph.nodes:
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant) and seen.setdefault(tensor.name, tensor) is not tensor:
                return f"two constants are named {tensor.name!r}"
    return None


def _codes(model: Model) -> str | None:
    layers, recurrent = model.layers(), model.recurrent_layers()
    for name in (*model.quantized, *model.recurrent):
        if name not in layers and name not in recurrent:
            return f"quantized layer {name} is no longer in the graph"
    weights = [(layers[name], quantized) for name, quantized in model.quantized.items()]
    for name, both in model.recurrent.items():
        weights += zip(recurrent[name].weights, both.weights, strict=True)
    return next(filter(None, (_code(model, layer, quantized) for layer, quantized in weights)), None)


def _code(model: Model, layer: Linear, quantized: Quantized) -> str | None:
    name, middle = layer.name, 1 << (quantized.grid.bits - 1)
    low, high = -middle, middle - 1  # existing codes may be -128
    if quantized.codes.min() < low or quantized.codes.max() > high:
        return f"{name} has codes outside {low}..{high}"
    if not np.array_equal(model.weight(layer), quantized.grid.values(quantized.codes)):
        return f"the weight of {name} differs from its codes on their grid"
    if quantized.pruned is not None and model.weight(layer)[~quantized.pruned.kept].any():
        return f"weights of {name} that were removed are not zero"
    return None
