"""Give every node a unique name that says where in the network it is.

Existing names stay. A layer without a name is named after its weight, `layer1.0.conv1.weight` -> `layer1.0.conv1`:
PyTorch's exporters keep the names of parameters. All other nodes are called `<Op>_<i>`. A name that is only a number is
replaced in the same way. It stays if numbers are module paths, as in a torch.nn.Sequential, where node `2` reads
`2.weight`.
"""

import re

import onnx_graphsurgeon as gs

from passes.ir.linear import LINEAR_OPS
from passes.ir.surgery import fresh_name

__all__ = ["name_nodes"]

_WEIGHT = re.compile(r"(?P<stem>.*[A-Za-z].*)[._/](weight|kernel|W)(:0)?")


def name_nodes(graph: gs.Graph) -> list[str]:
    """Name nodes whose name is empty or only a number, and all but the first of the nodes with the same name.

    Returns:
        A line with the number of named nodes, or nothing.
    """
    paths = any(_is_path(node) for node in graph.nodes)
    taken = {node.name for node in graph.nodes}
    seen: set[str] = set()
    counts: dict[str, int] = {}
    named = 0
    for node in graph.nodes:
        named_well = bool(node.name) and (paths or not node.name.isdigit())
        if named_well and node.name not in seen:
            seen.add(node.name)
            continue
        if named_well:
            node.name = fresh_name(node.name, taken)
        elif stem := _weight_stem(node):
            node.name = fresh_name(stem, taken)
        else:
            node.name, counts[node.op] = _numbered(node.op, counts.get(node.op, 0), taken)
        seen.add(node.name)
        named += 1
    return [f"{named} nodes named"] if named else []


def _is_path(node: gs.Node) -> bool:
    """Return whether a node's name is a number and a module path, so that names of its parameters start with it."""
    constants = [tensor.name for tensor in node.inputs if isinstance(tensor, gs.Constant)]
    return node.name.isdigit() and any(name.startswith(f"{node.name}.") for name in constants)


def _weight_stem(node: gs.Node) -> str | None:
    if node.op not in LINEAR_OPS:
        return None
    for tensor in node.inputs[:2]:
        if isinstance(tensor, gs.Constant) and (match := _WEIGHT.fullmatch(tensor.name)):
            return match["stem"]
    return None


def _numbered(op: str, index: int, taken: set[str]) -> tuple[str, int]:
    """Return the first free name `op_i` with i >= `index`, and the index after it."""
    while f"{op}_{index}" in taken:
        index += 1
    taken.add(f"{op}_{index}")
    return f"{op}_{index}", index + 1
