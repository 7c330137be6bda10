"""A quantized model with some of its cells in float again: what would be gained if these layers were exact?

The reference's nodes are copied into the quantized graph. They read the quantized network's tensors and write where
the quantized layer wrote, so the rounding of the activation that follows stays as it is. The Sum of one term behind
them keeps onnxruntime from rounding their weights (`converter.qdq.activations` does the same by a scale per channel).
"""

from collections.abc import Mapping, Sequence

import onnx

from converter.comparison.subgraphs import Subgraph
from passes.ir.surgery import fresh_name

__all__ = ["in_float"]


def in_float(
    model: onnx.ModelProto, reference: onnx.ModelProto, subgraphs: Sequence[Subgraph], others: Mapping[str, str]
) -> onnx.ModelProto | None:
    """``model`` with ``subgraphs`` computed as in ``reference``; None if a cell reads what its place does not have yet.

    Both models are of one opset. ``others`` are the model's tensors by the reference's names.
    """
    mixed = onnx.ModelProto()
    mixed.CopyFrom(model)
    graph = mixed.graph
    taken = {name for node in graph.node for name in [*node.input, *node.output, node.name]}
    taken |= {tensor.name for tensor in graph.initializer}
    nodes = list(model.graph.node)
    for subgraph in subgraphs:
        place = next(index for index, node in enumerate(nodes) if subgraph.tensor in node.output)
        copies, constants = _copies(subgraph, reference.graph, others, taken)
        present = {value.name for value in [*graph.input, *graph.initializer, *constants]}
        present |= {name for node in nodes[:place] for name in node.output}
        for node in copies:
            if not set(filter(None, node.input)) <= present:
                return None
            present |= set(node.output)
        away = onnx.NodeProto()
        away.CopyFrom(nodes[place])
        unused = fresh_name(f"{subgraph.tensor}/replaced", taken)
        away.output[:] = [unused if name == subgraph.tensor else name for name in away.output]
        nodes[place : place + 1] = [away, *copies]
        graph.initializer.extend(constants)
    graph.ClearField("node")
    graph.ClearField("value_info")
    graph.node.extend(nodes)
    return mixed


def _copies(
    subgraph: Subgraph, reference: onnx.GraphProto, others: Mapping[str, str], taken: set[str]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The cell's nodes and constants under names that are free in the model."""
    stored = {tensor.name: tensor for tensor in reference.initializer}
    names = {name: others[name] for name in subgraph.reads}
    nodes, constants = [], []
    for place in subgraph.nodes:
        node = onnx.NodeProto()
        node.CopyFrom(reference.node[place])
        node.name = fresh_name(f"{node.name}/float", taken)
        for name in [*node.input, *node.output]:
            if not name or name in names or (name not in stored and name not in node.output):
                continue
            names[name] = fresh_name(f"{name}/float", taken)
            if name in stored:
                constant = onnx.TensorProto()
                constant.CopyFrom(stored[name])
                constant.name = names[name]
                constants.append(constant)
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        nodes.append(node)
    kept = fresh_name(f"{subgraph.tensor}/stays_float", taken)
    nodes.append(onnx.helper.make_node("Sum", [names[subgraph.tensor]], [subgraph.tensor], kept))
    return nodes, constants
