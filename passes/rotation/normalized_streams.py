"""Move the scale gamma and shift beta of normalizations into the layers that read them.

    W (gamma x + beta) + b = (W diag(gamma)) x + (b + W beta)

(Ashkboos et al. 2024, SliceGPT, arXiv 2401.15024, section 3). Then gamma is 1 and beta is 0. Both stay in the graph, so
that SmoothQuant and AWQ can fold their factors there.
"""

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.ir.surgery import fresh_name, set_constant, sole_consumer, tensor_names
from passes.rotation.rotation_groups import RotationGroup

__all__ = ["clear_normalizations", "move_shifts", "scales"]

Doubles = NDArray[np.float64]


def scales(model: Model, group: RotationGroup) -> dict[str, Doubles]:
    """Return gamma ``[size]`` for each layer of the group that reads what a normalization writes, by its name."""
    found: dict[str, Doubles] = {}
    for name, readers in group.normalizations.items():
        gamma = _parameter(model.node(name), 1, group.size)
        if gamma is not None:
            found.update(dict.fromkeys(readers, gamma))
    return found


def move_shifts(model: Model, group: RotationGroup) -> dict[str, str]:
    """Add ``W beta`` to the biases of the layers that read a normalization of the group.

    Returns:
        Names of the Adds that were put behind layers without a bias, by the name of the layer.
    """
    layers, added = model.layers(), dict[str, str]()
    for name, readers in group.normalizations.items():
        beta = _parameter(model.node(name), 2, group.size)
        for reader in readers if beta is not None and beta.any() else ():
            layer = layers[reader]
            weight = model.weight(layer)[0].astype(np.float64)  # [o, size x taps]
            shift = weight.reshape(len(weight), group.size, -1).sum(2) @ beta  # [o]
            if add := _add_to_bias(model, layer, shift):
                added[reader] = add
    return added


def clear_normalizations(model: Model, group: RotationGroup) -> None:
    """Set gamma to 1 and beta to 0 in the normalizations of a group."""
    for name in group.normalizations:
        node = model.node(name)
        for index, value in ((1, 1), (2, 0)):
            if len(node.inputs) > index and node.inputs[index].name:
                old = node.inputs[index]
                values = np.full(tuple(old.shape), value, old.dtype)
                set_constant(model.graph, node, index, values, f"{old.name}.{value}")


def _parameter(node: gs.Node, index: int, size: int) -> Doubles | None:
    if len(node.inputs) <= index or not node.inputs[index].name:
        return None
    return np.broadcast_to(node.inputs[index].values.astype(np.float64), (size,))


def _add_to_bias(model: Model, layer: Linear, shift: Doubles) -> str | None:
    """Add ``[o]`` to what a layer writes. Return the name of the Add if there was none for it."""
    if layer.op != "MatMul":
        bias = model.bias(layer)
        total = shift if bias is None else shift + bias[0]
        model.write(layer, model.weight(layer), total.astype(np.float32)[None])
        return None
    graph, node = model.graph, model.node(layer.name)
    product = node.outputs[0]
    add = sole_consumer(graph, product)
    for index, constant in enumerate(add.inputs if add is not None and add.op == "Add" else ()):
        if isinstance(constant, gs.Constant):
            set_constant(graph, add, index, (constant.values + shift).astype(np.float32), f"{constant.name}.shifted")
            return None
    names = tensor_names(graph)
    node.outputs = [gs.Variable(fresh_name(f"{layer.name}.product", names), np.float32)]
    bias = gs.Constant(fresh_name(f"{layer.name}.bias", names), shift.astype(np.float32))
    name = fresh_name(f"{layer.name}.add", {str(each.name) for each in graph.nodes})
    position = next(index for index, other in enumerate(graph.nodes) if other is node)
    graph.nodes.insert(position + 1, gs.Node("Add", name, inputs=[node.outputs[0], bias], outputs=[product]))
    return name
