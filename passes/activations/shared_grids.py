"""One grid for what a Concat joins: then it copies codes, and its inputs are rounded once rather than twice.

An input takes part if nobody but Concats reads it, and if the common range is at most twice its own, which costs it a
bit at most; tensors that meet in several Concats, as in a dense block, share one grid.
"""

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from passes.activations.placement import Placement
from passes.numerics.grid import ActivationGrid

__all__ = ["shared_grids"]

_WIDEST = 2.0  # times a tensor's own range


def shared_grids(
    graph: gs.Graph, placement: Placement, grids: Mapping[str, ActivationGrid], *, symmetric: bool
) -> dict[str, ActivationGrid]:
    """The grids, by the tensor that each was made for, with those around Concats made one where that is worth it."""
    groups: dict[str, set[str]] = {}
    for node in graph.nodes:
        if node.op != "Concat" or node.name not in placement.integer:
            continue
        written = _written(node, placement)
        members = {placement.tensors[tensor.name] for tensor in node.inputs if tensor.name in placement.tensors}
        joined = {written, *(source for source in members if _only_joined(graph, placement, source))}
        for source in list(joined):
            joined |= groups.get(source, set())
        groups.update(dict.fromkeys(joined, joined))
    result = dict(grids)
    for group in {id(group): group for group in groups.values()}.values():
        found = [grids[source] for source in group]
        low, high = min(grid.low for grid in found), max(grid.high for grid in found)
        for source in group:
            own, (least, most) = grids[source], placement.bounds.get(source, (low, high))
            wide = high - low > _WIDEST * (own.high - own.low)
            if not wide and least <= low and high <= most:  # within a clamp that the grid's range stands for
                result[source] = ActivationGrid.of(low, high, signed=own.signed, symmetric=symmetric)
    return result


def _written(node: gs.Node, placement: Placement) -> str:
    """The tensor with the Concat's grid: past a clamp that was absorbed."""
    name = str(node.outputs[0].name)
    return name if name in placement.tensors else str(node.outputs[0].outputs[0].outputs[0].name)


def _only_joined(graph: gs.Graph, placement: Placement, source: str) -> bool:
    """Whether only Concats read a tensor, and whatever has its grid because it moves its values."""
    if source in {placement.tensors[tensor] for tensor in placement.factors}:
        return False
    outputs = {tensor.name for tensor in graph.outputs}
    tensors = {tensor for tensor, own in placement.tensors.items() if own == source}
    readers = [node for node in graph.nodes if any(tensor.name in tensors for tensor in node.inputs)]
    moved = {node.name for node in readers if any(tensor.name in tensors for tensor in node.outputs)}
    joining = all(node.name in moved or (node.op == "Concat" and node.name in placement.integer) for node in readers)
    return joining and not tensors & outputs
