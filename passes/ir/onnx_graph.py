"""Conversion between ONNX models and onnx-graphsurgeon graphs. Nothing is lost on the way there and back.

In the graph, a node with bodies (If, Loop, Scan, SequenceMap) is a node like any other. Its bodies are attributes that
no pass looks into, and the outer tensors that they read are its last inputs (`passes.ir.bodies`).

Large weights are in memory once. The graph reads those of the model that it was imported from, and an export copies one
after the other.
"""

from collections.abc import Collection, Iterator

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from passes.ir.bodies import CAPTURED, bodies, captured, enclose, inner_nodes
from passes.ir.large_constants import assign, is_large, proto_without_data
from passes.ir.linear import LINEAR_OPS, has_layers

__all__ = ["choices_with_layers", "export_graph", "fill_weights", "import_graph", "layers_in_branches", "node_bodies"]


def import_graph(model: onnx.ModelProto) -> gs.Graph:
    """Import a model. It does not change, and the graph shares its weights.

    Tensors that are sequences, maps or optional have no type in the graph, as graphsurgeon knows tensors only.
    """
    graph = gs.import_onnx(model)
    for value in [*model.graph.value_info, *model.graph.output]:
        if value.type.WhichOneof("value") not in {None, "tensor_type"}:
            _forget_type(graph, value.name)
    tensors: dict[str, gs.Tensor] = {}
    for node, proto in zip(list(graph.nodes), model.graph.node, strict=True):
        if not bodies(proto):
            continue
        tensors = tensors or _outer_tensors(graph, model.graph)
        for entry in proto.attribute:
            if entry.HasField("g"):
                _disconnect(node.attrs[entry.name])
                node.attrs[entry.name] = entry.g
        if names := captured(proto):
            node.attrs[CAPTURED] = names
            node.inputs.extend([tensors[name] for name in names])
    for tensor in graph.tensors().values():
        if is_large(tensor):
            assign(tensor, tensor._values)
    return graph


def export_graph(graph: gs.Graph, *, exposed: bool = False, without: Collection[str] = ()) -> onnx.ModelProto:
    """Export a graph.

    Args:
        graph: The graph.
        exposed: Whether nodes with bodies keep what these capture among their inputs. Such a model is not valid before
            `enclose`.
        without: Names of constants that need no data. They are initializers without bytes if they are large. See
            `fill_weights`.
    """
    hollow = graph
    if large := _large_constants(graph):  # graphsurgeon copies what it exports three times
        hollow, kinds = graph.copy(), graph.tensors()
        for name, tensor in hollow.tensors().items():
            if isinstance(tensor, gs.Variable):
                tensor.type = kinds[name].type  # graphsurgeon's copy forgets that it is none
        for tensor in _large_constants(hollow).values():
            tensor.values = LazyValues(proto_without_data(tensor))
    model: onnx.ModelProto = gs.export_onnx(hollow, do_type_check=False)
    fill_weights(model.graph, graph, large.keys() - set(without))
    if not exposed:
        enclose(model.graph)
    return model


def fill_weights(proto: onnx.GraphProto, graph: gs.Graph, names: Collection[str]) -> None:
    """Copy the data of large constants of a graph into the initializers of these names that have none."""
    if not names:
        return
    large = _large_constants(graph)
    for tensor in proto.initializer:
        name = tensor.name
        if name not in names or name not in large or tensor.HasField("raw_data"):
            continue
        values = large[name]._values
        if isinstance(values, LazyValues):
            tensor.CopyFrom(values.tensor)
            tensor.name = name
        else:
            tensor.raw_data = values.tobytes()


def node_bodies(node: gs.Node) -> Iterator[onnx.GraphProto]:
    """Yield the bodies of a node of an imported graph."""
    yield from (value for value in node.attrs.values() if isinstance(value, onnx.GraphProto))


def choices_with_layers(graph: gs.Graph) -> list[gs.Node]:
    """Return the If nodes of an imported graph that have layers inside, but not in a loop."""
    choices = [node for node in graph.nodes if node.op == "If"]
    return [node for node in choices if any(has_layers(branch) for branch in node_bodies(node))]


def layers_in_branches(graph: gs.Graph) -> list[str]:
    """Return the names of the layers in the branches of Ifs, however deep."""
    inner = inner_nodes(body for node in choices_with_layers(graph) for body in node_bodies(node))
    return [node.name or node.output[0] for node, _ in inner if node.op_type in LINEAR_OPS]


def _outer_tensors(graph: gs.Graph, proto: onnx.GraphProto) -> dict[str, gs.Tensor]:
    tensors: dict[str, gs.Tensor] = {
        tensor.name: gs.Constant(tensor.name, LazyValues(tensor)) for tensor in proto.initializer
    }
    for node in graph.nodes:
        tensors |= {tensor.name: tensor for tensor in [*node.inputs, *node.outputs]}
    return tensors | {tensor.name: tensor for tensor in graph.inputs}


def _disconnect(body: gs.Graph) -> None:
    """Remove the nodes of a body from the consumers of outer tensors."""
    for node in body.nodes:
        node.inputs.clear()
        for inner in node.attrs.values():
            if isinstance(inner, gs.Graph):
                _disconnect(inner)


def _forget_type(graph: gs.Graph, name: str) -> None:
    for tensor in [*graph.outputs, *(tensor for node in graph.nodes for tensor in node.outputs)]:
        if tensor.name == name:
            tensor.dtype = tensor.shape = tensor.type = None


def _large_constants(graph: gs.Graph) -> dict[str, gs.Constant]:
    return {name: tensor for name, tensor in graph.tensors().items() if is_large(tensor)}
