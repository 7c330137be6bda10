"""Replace a Reshape to [batch, all other sizes] with Flatten(axis=1), in whatever form the exporter wrote the shape.

`x.flatten(1)` and `x.view(x.size(0), -1)` are exported as [0, -1], [-1, C], or as Shape -> Gather -> Unsqueeze ->
Concat. The target shape is evaluated symbolically. The Reshape is replaced only if both are proved to be equal.
"""

import math

import onnx_graphsurgeon as gs

from passes.graph.normalise.shapes import Dim, Shapes
from passes.ir.surgery import is_default_domain, replace_node

__all__ = ["flatten_reshapes"]

Entry = int | str | tuple[str, int]  # a number, a named dynamic size, or size `axis` of a tensor


def flatten_reshapes(graph: gs.Graph, shapes: Shapes) -> list[str]:
    """Replace Reshape with Flatten(axis=1) if the input has rank 3 or more and the target is [N, rest].

    Returns:
        A line for each.
    """
    notes = []
    for node in list(graph.nodes):
        if node.op != "Reshape" or not is_default_domain(node) or len(node.inputs) != 2:
            continue
        source = node.inputs[0]
        shape = shapes.get(source.name, ())
        if len(shape) < 3:
            continue
        target = _target(node.inputs[1], shapes)
        if target is None or not _is_flatten(target, source.name, shape, bool(node.attrs.get("allowzero", 0))):
            continue
        replace_node(graph, node, gs.Node("Flatten", node.name, {"axis": 1}, inputs=[source]))
        notes.append(f"{node.name}: Reshape replaced by Flatten")
    return notes


def _is_flatten(target: list[Entry], source: str, shape: tuple[Dim, ...], allow_zero: bool) -> bool:
    if len(target) != 2 or (allow_zero and 0 in target):
        return False
    batch, rest = target
    sizes = [size for size in shape[1:] if isinstance(size, int)]
    features = math.prod(sizes) if len(sizes) == len(shape) - 1 else None
    rest_is_rest = rest == features or (rest == 0 and shape[2:] == (1,) * len(shape[2:]))
    if batch == -1:
        return features != 0 and rest_is_rest
    batch_is_batch = batch == 0 or batch == _entry(source, shape, 0)
    return batch_is_batch and (rest == -1 or rest_is_rest)


def _entry(name: str, shape: tuple[Dim, ...] | None, axis: int) -> Entry:
    """Return the size of axis `axis` of tensor `name`. Equal entries are equal sizes."""
    size = shape[axis] if shape is not None else None
    return (name, axis) if size is None else size


def _target(tensor: gs.Tensor, shapes: Shapes) -> list[Entry] | None:
    """Return the value of a shape tensor, or None if its computation is not supported here. A scalar has one entry."""
    if isinstance(tensor, gs.Constant):
        return [int(value) for value in tensor.values.reshape(-1)]
    if len(tensor.inputs) != 1:
        return None
    node = tensor.inputs[0]
    if node.op == "Shape":
        return _shape_entries(node, shapes)
    parts = [_target(source, shapes) for source in node.inputs]
    if any(part is None for part in parts):
        return None
    known = [part for part in parts if part is not None]
    if node.op in (
        "Identity",
        "Squeeze",
        "Unsqueeze",
        "Reshape",
        "Cast",
    ):  # shapes are integers, so Cast changes nothing
        return known[0]
    if node.op == "Concat":
        return [entry for part in known for entry in part]
    if node.op == "Gather" and node.attrs.get("axis", 0) == 0:
        return _gather(known[0], known[1])
    if node.op == "Slice":
        return _slice(known)
    return None


def _shape_entries(node: gs.Node, shapes: Shapes) -> list[Entry] | None:
    source = node.inputs[0]
    shape = shapes.get(source.name)
    if shape is None:
        return None
    entries = [_entry(source.name, shape, axis) for axis in range(len(shape))]
    return entries[node.attrs.get("start", 0) : node.attrs.get("end")]


def _gather(entries: list[Entry], indices: list[Entry]) -> list[Entry] | None:
    numbers = [index for index in indices if isinstance(index, int)]
    if len(numbers) < len(indices) or any(not -len(entries) <= index < len(entries) for index in numbers):
        return None
    return [entries[index] for index in numbers]


def _slice(parts: list[list[Entry]]) -> list[Entry] | None:
    """Slice a vector. The inputs are data, starts, ends[, axes[, steps]] (from opset 10 on)."""
    numbers = [part[0] for part in parts[1:] if len(part) == 1 and isinstance(part[0], int)]
    if len(parts) < 3 or len(numbers) != len(parts) - 1:
        return None
    start, end, axis, step = numbers + [0, 1][len(numbers) - 2 :]
    return parts[0][start:end:step] if axis == 0 and step > 0 else None
