"""Constants that several branches of Ifs have are stored once, in the graph around them.

A branch is converted as a model of its own, so it has all constants that it reads. In a file, it may read those of the
graph around it.
"""

from collections.abc import Iterator

import onnx
from onnx import TensorProto

from passes.ir.bodies import bodies, capture, names_inside
from passes.ir.fresh_name import fresh_name

__all__ = ["share_branch_constants"]

_SMALLEST = 256  # bytes; smaller ones are mostly scales and shapes, and cost no more than their names

Content = tuple[int, tuple[int, ...], bytes]


def share_branch_constants(graph: onnx.GraphProto) -> None:
    """Let the branches of a graph's Ifs share equal constants with each other and with the graph, in place."""
    branches = [branch for node in graph.node if node.op_type == "If" for branch in bodies(node)]
    names: dict[Content, str] = {}
    if branches:
        names = {content: tensor.name for tensor in graph.initializer if (content := _content(tensor))}
    count: dict[Content, int] = {}
    for branch in branches:
        for content in {content for tensor in branch.initializer if (content := _content(tensor))}:
            count[content] = count.get(content, 0) + 1
    taken = {value.name for value in [*graph.input, *graph.output, *graph.initializer]}
    taken |= {name for node in graph.node for name in node.output} | names_inside(branches)
    for branch in branches:
        for tensor in list(_shared(branch, names, count)):
            content = _content(tensor)
            assert content is not None
            if content not in names:
                names[content] = fresh_name(tensor.name, taken)
                graph.initializer.add().CopyFrom(tensor)
                graph.initializer[-1].name = names[content]
            capture(branch, tensor.name, names[content])


def _shared(branch: onnx.GraphProto, names: dict[Content, str], count: dict[Content, int]) -> Iterator[TensorProto]:
    """Yield the constants of a branch that the graph around it or another branch has too."""
    returned = {value.name for value in branch.output}
    for tensor in branch.initializer:
        content = _content(tensor)
        if content is not None and tensor.name not in returned and (content in names or count[content] > 1):
            yield tensor


def _content(tensor: TensorProto) -> Content | None:
    """Type, shape and bytes of a tensor. None if it is small, or has its values in another form."""
    if len(tensor.raw_data) < _SMALLEST:
        return None
    return tensor.data_type, tuple(tensor.dims), tensor.raw_data
