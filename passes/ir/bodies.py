"""Bodies: the graphs inside of an If, Loop, Scan or SequenceMap node. No pass looks into them.

A body may read tensors of the graph around it. The file does not list them among the node's inputs. While a graph is
rewritten, they are: `expose` appends them to the inputs, so that every pass sees that the node reads them, and may
rename them. `enclose` takes them away again, and renames them inside of the bodies.
"""

from collections.abc import Iterable, Iterator, Mapping, Set

import onnx

from passes.ir.fresh_name import fresh_name

__all__ = [
    "CAPTURED",
    "bodies",
    "capture",
    "captured",
    "enclose",
    "expose",
    "inner_nodes",
    "make_way",
    "names_inside",
    "tensors_read",
]

CAPTURED = "captured"
"""Attribute of an exposed node: the tensors that its bodies read from outside, under their names inside."""


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs inside of a node."""
    return [graph for entry in node.attribute for graph in ([entry.g] if entry.HasField("g") else entry.graphs)]


def captured(node: onnx.NodeProto) -> list[str]:
    """Return the outer tensors that the bodies of a node read, each once."""
    names: dict[str, None] = {}
    for body in bodies(node):
        own = _own_names(body)
        inside = [name for inner in body.node for name in tensors_read(inner)]
        names |= dict.fromkeys(
            name for name in [*inside, *(value.name for value in body.output)] if name and name not in own
        )
    return list(names)


def tensors_read(node: onnx.NodeProto) -> list[str]:
    """Return the tensors that a node reads: its inputs, and what its bodies read from outside."""
    return [*filter(None, node.input), *(captured(node) if node.attribute else ())]


def inner_nodes(graphs: Iterable[onnx.GraphProto]) -> Iterator[tuple[onnx.NodeProto, onnx.GraphProto]]:
    """Yield every node inside of some bodies, however deep, and the body that it is in."""
    for graph in graphs:
        for node in graph.node:
            yield node, graph
            yield from inner_nodes(bodies(node))


def names_inside(graphs: Iterable[onnx.GraphProto]) -> set[str]:
    """Return the names of all tensors inside of some bodies."""
    names: set[str] = set()
    for graph in graphs:
        names |= _own_names(graph)
        for node in graph.node:
            names.update(node.input)
            names |= names_inside(bodies(node))
    return names


def expose(nodes: Iterable[onnx.NodeProto]) -> None:
    """Append the captured tensors of every node to its inputs."""
    for node in nodes:
        if names := captured(node):
            node.attribute.append(onnx.helper.make_attribute(CAPTURED, names))
            node.input.extend(names)


def enclose(graph: onnx.GraphProto) -> None:
    """Undo `expose`. If an appended input has another name by now, the bodies read it under that name."""
    for node in graph.node:
        place = next((place for place, entry in enumerate(node.attribute) if entry.name == CAPTURED), None)
        if place is None:
            continue
        inside = [name.decode() for name in node.attribute[place].strings]
        outside = list(node.input[-len(inside) :])
        del node.attribute[place]
        del node.input[-len(inside) :]
        changed = {before: now for before, now in zip(inside, outside, strict=True) if before != now}
        for body in bodies(node) if changed else ():
            _rename(body, changed)


def _rename(body: onnx.GraphProto, renamed: Mapping[str, str]) -> None:
    """Rename tensors that a body reads from outside. Its own tensors make way for the new names."""
    own = _own_names(body)
    names = {before: now for before, now in renamed.items() if before not in own}
    taken = names_inside([body]) | set(names.values())
    names |= {name: fresh_name(name, taken) for name in sorted(own & set(names.values()))}
    if names:
        _apply(body, names)


def capture(body: onnx.GraphProto, name: str, outside: str) -> None:
    """Let a body read a constant of its own from outside.

    Args:
        body: The body. It is changed in place.
        name: The constant, which is removed.
        outside: Name of an equal constant around it. The body has no tensor of this name.
    """
    kept = [tensor for tensor in body.initializer if tensor.name != name]
    del body.initializer[:]
    body.initializer.extend(kept)
    _apply(body, {name: outside})


def make_way(body: onnx.GraphProto, taken: Set[str]) -> None:
    """Give a body's own tensors, and those of the bodies inside, names that the graphs around them do not have.

    Args:
        body: The body. It is changed in place.
        taken: Names around it.
    """
    own = _own_names(body)
    avoided = names_inside([body]) | taken
    names = {name: fresh_name(name, avoided) for name in sorted(own & taken)}
    if names:
        _apply(body, names)
    for node in body.node:
        for inner in bodies(node):
            make_way(inner, taken | _own_names(body))


def _apply(body: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename tensors in a body and in the bodies inside."""
    for value in [*body.input, *body.output, *body.initializer, *body.value_info]:
        value.name = names.get(value.name, value.name)
    for sparse in body.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for node in body.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for inner in bodies(node):
            _rename(inner, names)


def _own_names(body: onnx.GraphProto) -> set[str]:
    """Return the names of the tensors that a body defines."""
    values = [*body.input, *body.initializer, *(sparse.values for sparse in body.sparse_initializer)]
    return {value.name for value in values} | {name for node in body.node for name in node.output if name}
