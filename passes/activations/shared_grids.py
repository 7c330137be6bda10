"""One shared grid for the inputs of a Concat: the Concat then copies codes, and values are rounded only once.

An input shares the grid if only Concats read it, if it has as many bits, and if the shared range is at most twice its
own, which loses at most one bit. Tensors that are connected by several Concats, as in a dense block, share one grid.
"""

from collections.abc import Collection, Mapping

import onnx_graphsurgeon as gs

from passes.activations.placement import Placement
from passes.numerics.grid import ActivationGrid

__all__ = ["shared_grids"]

_WIDEST = 2.0  # largest shared range over a tensor's own range


def shared_grids(
    graph: gs.Graph,
    placement: Placement,
    grids: Mapping[str, ActivationGrid],
    *,
    symmetric: bool,
    fixed: Collection[str] = (),
) -> dict[str, ActivationGrid]:
    """Return the grids, with shared ones around Concats.

    Args:
        graph: The graph.
        placement: Its quantized tensors.
        grids: Grids by the tensor for which each was made.
        symmetric: Whether grids are symmetric.
        fixed: Tensors whose grids stay as they are.
    """
    groups: dict[str, set[str]] = {}
    for node in graph.nodes:
        if node.op != "Concat" or node.name not in placement.integer:
            continue
        written = _written(node, placement)
        members = {placement.tensors[tensor.name] for tensor in node.inputs if tensor.name in placement.tensors}
        alike = [source for source in members - set(fixed) if grids[source].bits == grids[written].bits]
        joined = {written, *(source for source in alike if _only_joined(graph, placement, source))}
        for source in list(joined):
            joined |= groups.get(source, set())
        groups.update(dict.fromkeys(joined, joined))
    result = dict(grids)
    for group in {id(group): group for group in groups.values()}.values():
        member_grids = [grids[source] for source in group]
        low, high = min(grid.low for grid in member_grids), max(grid.high for grid in member_grids)
        for source in group:
            own, (least, most) = grids[source], placement.bounds.get(source, (low, high))
            wide = high - low > _WIDEST * (own.high - own.low)
            if not wide and least <= low and high <= most:  # the shared range does not exceed the tensor's clamp
                result[source] = ActivationGrid.of(low, high, signed=own.signed, symmetric=symmetric, bits=own.bits)
    return result


def _written(node: gs.Node, placement: Placement) -> str:
    """Return the tensor with the Concat's grid: its output, or the output of an absorbed clamp behind it."""
    name = str(node.outputs[0].name)
    return name if name in placement.tensors else str(node.outputs[0].outputs[0].outputs[0].name)


def _only_joined(graph: gs.Graph, placement: Placement, source: str) -> bool:
    """Return whether only Concats read a tensor, and all tensors that have its grid because they have its values."""
    if source in {placement.tensors[tensor] for tensor in placement.factors}:
        return False
    outputs = {tensor.name for tensor in graph.outputs}
    tensors = {tensor for tensor, own in placement.tensors.items() if own == source}
    readers = [node for node in graph.nodes if any(tensor.name in tensors for tensor in node.inputs)]
    moving = {node.name for node in readers if any(tensor.name in tensors for tensor in node.outputs)}
    joining = all(node.name in moving or (node.op == "Concat" and node.name in placement.integer) for node in readers)
    return joining and not tensors & outputs
