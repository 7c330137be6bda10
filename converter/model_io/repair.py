"""Put right what onnxruntime accepts in a file, and onnx's checker, its version converter or a pass does not."""

from onnx import GraphProto, ModelProto, NodeProto, helper

from converter.model_io.protobuf import graphs, is_default_domain, subgraphs
from converter.model_io.sparse import make_dense

__all__ = ["repair", "sort_nodes"]

_OLDEST_IR = 4  # before it, initializers had to be graph inputs


def repair(model: ModelProto) -> None:
    """Change `model` in place. It computes the same.

    - Nodes are sorted, so that each follows those whose outputs it reads.
    - Initializers are not graph inputs. Old files list them twice. So `graph.input` is what a caller feeds.
    - Of two initializers of one name, the first one stays. onnxruntime 1.31 computes with it.
    - Sparse constants become dense. onnxruntime does the same when it loads them.
    - The domain of ONNX's own operators has one name, and the graph has one. Every domain is imported.
    - An attribute refers to no attribute of a function, where there is none. Its own value counts.
    - A one-sided STFT says so. onnx 1.23 infers a two-sided one from the attribute's default.
    """
    model.ir_version = max(model.ir_version, _OLDEST_IR)
    model.graph.name = model.graph.name or "graph"
    _name_domains(model)
    make_dense(model)
    for graph in graphs(model.graph):
        _name_default_sides(graph)
        _drop_references(graph)
        _drop_duplicate_initializers(graph)
        _drop_initializer_inputs(graph)
    sort_nodes(model.graph)


def _name_domains(model: ModelProto) -> None:
    for entry in model.opset_import:
        if is_default_domain(entry.domain):
            entry.domain = ""
    nodes = [node for graph in graphs(model.graph) for node in graph.node]
    imported = {entry.domain for entry in model.opset_import}
    for node in [*nodes, *(node for function in model.functions for node in function.node)]:
        if is_default_domain(node.domain):
            node.ClearField("domain")
    for domain in sorted({node.domain for node in nodes} - imported - {""}):
        model.opset_import.append(helper.make_opsetid(domain, 1))


def _drop_duplicate_initializers(graph: GraphProto) -> None:
    first: dict[str, int] = {}
    for index, tensor in enumerate(graph.initializer):
        first.setdefault(tensor.name, index)
    for index in reversed(range(len(graph.initializer))):
        if first[graph.initializer[index].name] != index:
            del graph.initializer[index]


def _drop_initializer_inputs(graph: GraphProto) -> None:
    names = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in names]
    if len(inputs) < len(graph.input):
        del graph.input[:]
        graph.input.extend(inputs)


def _name_default_sides(graph: GraphProto) -> None:
    for node in graph.node:
        if node.op_type == "STFT" and not node.domain and all(one.name != "onesided" for one in node.attribute):
            node.attribute.append(helper.make_attribute("onesided", 1))


def _drop_references(graph: GraphProto) -> None:
    for node in graph.node:
        for attribute in node.attribute:
            attribute.ClearField("ref_attr_name")


def sort_nodes(graph: GraphProto) -> None:
    """Sort the nodes of a graph and of the graphs inside it. Nodes that are sorted already keep their order."""
    for node in graph.node:
        for body in subgraphs(node):
            sort_nodes(body)
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    wanted = [sorted({makers[name] for name in _reads(node) if name in makers}) for node in graph.node]
    if all(max(before, default=-1) < index for index, before in enumerate(wanted)):
        return
    order: list[int] = []
    placed: set[int] = set()
    for start in range(len(graph.node)):
        stack, open_nodes = [start], {start}
        while stack:
            index = stack[-1]
            missing = next((before for before in wanted[index] if before not in placed), None)
            if missing in open_nodes:
                return  # a cycle: the checker says so
            if missing is not None:
                stack.append(missing)
                open_nodes.add(missing)
                continue
            open_nodes.discard(stack.pop())
            if index not in placed:
                placed.add(index)
                order.append(index)
    nodes = [NodeProto.FromString(graph.node[index].SerializeToString()) for index in order]
    del graph.node[:]
    graph.node.extend(nodes)


def _reads(node: NodeProto) -> set[str]:
    """Tensors that a node reads, or that a graph inside it reads from outside."""
    read = {name for name in node.input if name}
    for body in subgraphs(node):
        inner = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
        for other in body.node:
            inner.update(other.output)
        captured = {value.name for value in body.output}.union(*(_reads(other) for other in body.node))
        read |= captured - inner
    return read
