"""Quantized model with some subgraphs computed in float, to measure what float layers would gain.

The reference's nodes are copied into the quantized graph. They read the quantized network's tensors and write the
tensor that the quantized layer wrote, so the rounding of the activation that follows does not change. A Sum with one
operand behind them keeps onnxruntime from quantizing their weights. (`converter.qdq.activations` does the same with a
scale per channel.)
"""

from collections.abc import Mapping, Sequence

import onnx

from converter.comparison.subgraphs import Subgraph
from passes.ir.bodies import enclose, expose
from passes.ir.surgery import fresh_name

__all__ = ["in_float"]


def in_float(
    model: onnx.ModelProto, reference: onnx.ModelProto, subgraphs: Sequence[Subgraph], others: Mapping[str, str]
) -> onnx.ModelProto | None:
    """Return ``model`` with ``subgraphs`` computed in float, as in ``reference``.

    Args:
        model: The quantized model.
        reference: The float model, of the same opset.
        subgraphs: Subgraphs of the reference.
        others: Tensors of ``model``. The keys are the reference's names.

    Returns:
        The mixed model, or None if a subgraph reads a tensor that is computed only after its position.
    """
    mixed = onnx.ModelProto()
    mixed.CopyFrom(model)
    graph = mixed.graph
    taken = {name for node in graph.node for name in [*node.input, *node.output, node.name]}
    taken |= {tensor.name for tensor in graph.initializer}
    nodes = list(model.graph.node)
    for subgraph in subgraphs:
        index = next(index for index, node in enumerate(nodes) if subgraph.tensor in node.output)
        copies, constants = _copies(subgraph, reference.graph, others, taken)
        present = {value.name for value in [*graph.input, *graph.initializer, *constants]}
        present |= {name for node in nodes[:index] for name in node.output}
        for node in copies:
            if not set(filter(None, node.input)) <= present:
                return None
            present |= set(node.output)
        replaced = onnx.NodeProto()
        replaced.CopyFrom(nodes[index])
        unused = fresh_name(f"{subgraph.tensor}/replaced", taken)
        replaced.output[:] = [unused if name == subgraph.tensor else name for name in replaced.output]
        nodes[index : index + 1] = [replaced, *copies]
        graph.initializer.extend(constants)
    graph.ClearField("node")
    graph.ClearField("value_info")
    graph.node.extend(nodes)
    enclose(graph)
    return mixed


def _copies(
    subgraph: Subgraph, reference: onnx.GraphProto, others: Mapping[str, str], taken: set[str]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Copy the subgraph's nodes and constants under names that are free in the model."""
    stored = {tensor.name: tensor for tensor in reference.initializer}
    names = {name: others[name] for name in subgraph.reads}
    nodes, constants = [], []
    for index in subgraph.nodes:
        node = onnx.NodeProto()
        node.CopyFrom(reference.node[index])
        expose([node])
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
    barrier = fresh_name(f"{subgraph.tensor}/stays_float", taken)
    nodes.append(onnx.helper.make_node("Sum", [names[subgraph.tensor]], [subgraph.tensor], barrier))
    return nodes, constants
