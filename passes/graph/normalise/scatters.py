"""Replace a ScatterND that writes whole rows in order: an in-place operation on a slice, as PyTorch exports it.

``x[:, a:b] += y`` becomes a Slice, an Add, and a ScatterND of rows a to b between two Transposes. Its row numbers are
often computed from the shape. If all rows are written, the result is what is written. Otherwise it is a Concat of the
rows before, the new ones, and the rows after. A Slice that takes one part of a Concat is that part.
"""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.normalise.shapes import Dim, Shapes
from passes.ir.surgery import (
    fresh_name,
    graph_output_names,
    is_default_domain,
    remove_node,
    replace_input,
    sole_consumer,
    tensor_names,
)

__all__ = ["scatters_as_concats"]


@dataclass(frozen=True)
class _Rows:
    """Rows ``start`` to ``end`` of an axis, or all up to the dimension ``end`` if that is a name."""

    start: int
    end: Dim


def scatters_as_concats(graph: gs.Graph, shapes: Shapes) -> list[str]:
    """Rewrite every such ScatterND, and Slices of the Concats. The graph must be sorted.

    Args:
        graph: The graph.
        shapes: Shapes of its tensors. New tensors are added.

    Returns:
        A line for each ScatterND.
    """
    rewriter = _Rewriter(graph, shapes)
    notes = []
    for node in list(graph.nodes):
        if not is_default_domain(node) or not node.outputs:
            continue
        if node.op == "Slice":
            rewriter.slice(node)
        elif node.op == "ScatterND" and node.attrs.get("reduction", "none") in ("none", b"none"):
            what = rewriter.scatter(node)
            notes += [f"{node.name}: ScatterND made {what}"] if what else []
    if notes:
        graph.cleanup().toposort()
    return notes


class _Rewriter:
    def __init__(self, graph: gs.Graph, shapes: Shapes) -> None:
        self.graph, self.shapes = graph, shapes
        self.tensors, self.names = tensor_names(graph), {str(node.name) for node in graph.nodes}

    def slice(self, node: gs.Node) -> None:
        """Replace a Slice that takes one part of a Concat."""
        bounds = _slice_bounds(node)
        if bounds is None:
            return
        axis, start, end = bounds
        shape = self.shapes.get(node.inputs[0].name, ())
        axis = axis % len(shape) if shape else axis
        size = shape[axis] if 0 <= axis < len(shape) else None
        if isinstance(size, int):
            part = self.concat_part(node.inputs[0], axis, *_clipped(start, end, size))
            if part is not None:
                self.replace(node.outputs[0], part)

    def scatter(self, node: gs.Node) -> str:
        """Replace a ScatterND. Return what it became, or nothing."""
        data, indices, updates = node.inputs
        shape = self.shapes.get(data.name, ())
        rows = self.rows(indices)
        if rows is None or not shape or isinstance(data, gs.Constant):
            return ""
        size = shape[0]
        if rows.start == 0 and size is not None and rows.end == size:
            return "what it writes" if self.replace(node.outputs[0], updates) else ""
        if not isinstance(size, int) or not isinstance(rows.end, int) or rows.end > size or rows.start >= rows.end:
            return ""
        axis, result = 0, node.outputs[0]
        framed = self.framed(node)
        if framed is not None:
            axis, data, updates, result = framed
        parts = [self.part(data, axis, 0, rows.start), updates, self.part(data, axis, rows.end, size)]
        writer = result.inputs[0]
        concat = gs.Node(
            "Concat", str(node.name), {"axis": axis}, inputs=[part for part in parts if part is not None], outputs=[]
        )
        index = next(index for index, other in enumerate(self.graph.nodes) if other is writer)
        self.graph.nodes.insert(index, concat)
        writer.outputs.clear()
        concat.outputs = [result]
        return "Concat"

    def framed(self, node: gs.Node) -> tuple[int, gs.Tensor, gs.Tensor, gs.Tensor] | None:
        """Return axis, data, updates and result before and after the Transposes around a ScatterND, if they cancel."""
        first, second = _writer(node.inputs[0], "Transpose"), _writer(node.inputs[2], "Transpose")
        after = sole_consumer(self.graph, node.outputs[0])
        if first is None or second is None or after is None or after.op != "Transpose":
            return None
        turn, same, back = (each.attrs.get("perm") for each in (first, second, after))
        if not turn or not back or turn != same or [turn[axis] for axis in back] != list(range(len(turn))):
            return None
        return int(turn[0]), first.inputs[0], second.inputs[0], after.outputs[0]

    def part(self, tensor: gs.Tensor, axis: int, start: int, end: int) -> gs.Tensor | None:
        """Return rows ``start`` to ``end`` of an axis. None if there are none."""
        if start >= end:
            return None
        known = self.concat_part(tensor, axis, start, end)
        if known is not None:
            return known
        name = fresh_name(f"{tensor.name}_rows", self.tensors)
        bounds = [
            gs.Constant(fresh_name(f"{name}_{what}", self.tensors), np.array([value], np.int64))
            for what, value in (("start", start), ("end", end), ("axis", axis))
        ]
        result = gs.Variable(name, tensor.dtype)
        node = gs.Node("Slice", fresh_name(name, self.names), inputs=[tensor, *bounds], outputs=[result])
        self.graph.nodes.append(node)
        shape = self.shapes.get(tensor.name, ())
        self.shapes[name] = (*shape[:axis], end - start, *shape[axis + 1 :])
        return result

    def concat_part(self, tensor: gs.Tensor, axis: int, start: int, end: int) -> gs.Tensor | None:
        """Return the operand of a Concat that is these rows of its result, or None."""
        concat = _writer(tensor, "Concat")
        rank = len(self.shapes.get(tensor.name, ()))
        if concat is None or not rank or int(concat.attrs["axis"]) % rank != axis:
            return None
        offset = 0
        for operand in concat.inputs:
            shape = self.shapes.get(operand.name, ())
            size = shape[axis] if len(shape) == rank else None
            if not isinstance(size, int) or offset > start:
                return None
            if (offset, offset + size) == (start, end):
                return operand
            offset += size
        return None

    def replace(self, old: gs.Tensor, new: gs.Tensor) -> bool:
        """Let all readers of a tensor read another one. An output of the graph stays."""
        if old.name in graph_output_names(self.graph):
            return False
        for reader in list(old.outputs):
            replace_input(reader, old, new)
        remove_node(self.graph, old.inputs[0])
        return True

    def rows(self, indices: gs.Tensor) -> _Rows | None:
        """Return the rows that indices ``[n, 1]`` count, or None."""
        if isinstance(indices, gs.Constant):
            values = np.asarray(indices.values)
            plain = values.ndim == 2 and values.shape[1] == 1 and values.size > 0
            if not plain or (np.diff(values[:, 0]) != 1).any() or values[0, 0] < 0:
                return None
            return _Rows(int(values[0, 0]), int(values[-1, 0]) + 1)
        unsqueeze = _writer(indices, "Unsqueeze")
        if unsqueeze is None or _integer(unsqueeze, 1, "axes") not in (-1, 1):
            return None
        source = unsqueeze.inputs[0]
        cut = _writer(source, "Slice")
        counted = _writer(cut.inputs[0] if cut is not None else source, "Range")
        if counted is None or [_constant(counted.inputs[each]) for each in (0, 2)] != [0, 1]:
            return None
        size = self.dimension(counted.inputs[1])
        if cut is None:
            return None if size is None else _Rows(0, size)
        bounds = _slice_bounds(cut)
        if bounds is None or bounds[0] not in (0, -1) or not isinstance(size, int):
            return None
        return _Rows(*_clipped(bounds[1], bounds[2], size))

    def dimension(self, tensor: gs.Tensor) -> Dim:
        """Return the dimension that a scalar holds: a number, a name, or None if it is unknown."""
        if isinstance(tensor, gs.Constant):
            return _constant(tensor)
        gather = _writer(tensor, "Gather") or _writer(tensor, "Squeeze")
        if gather is not None and gather.op == "Squeeze":
            gather = _writer(gather.inputs[0], "Gather")
        shape = _writer(gather.inputs[0], "Shape") if gather is not None else None
        if gather is None or shape is None or shape.attrs.get("start", 0) or "end" in shape.attrs:
            return None
        axis, dims = _constant(gather.inputs[1]), self.shapes.get(shape.inputs[0].name, ())
        return dims[axis] if axis is not None and -len(dims) <= axis < len(dims) else None


def _writer(tensor: gs.Tensor, op: str) -> gs.Node | None:
    """Return the node that writes a tensor, if it is this operator."""
    node = tensor.inputs[0] if isinstance(tensor, gs.Variable) and tensor.inputs else None
    return node if node is not None and node.op == op and is_default_domain(node) else None


def _constant(tensor: gs.Tensor) -> int | None:
    """Return the one integer of a constant, or None."""
    if not isinstance(tensor, gs.Constant):
        return None
    values = np.asarray(tensor.values)
    return int(values.reshape(-1)[0]) if values.size == 1 and values.dtype.kind in "iu" else None


def _integer(node: gs.Node, index: int, attribute: str) -> int | None:
    """Return the one integer of an input, or of the attribute that old operator sets have instead."""
    if len(node.inputs) > index:
        return _constant(node.inputs[index])
    values = node.attrs.get(attribute, [])
    return int(values[0]) if len(values) == 1 else None


def _slice_bounds(node: gs.Node) -> tuple[int, int, int] | None:
    """Return axis, start and end of a Slice along one axis in steps of 1, or None."""
    if len(node.inputs) < 3:
        return None
    start, end = _constant(node.inputs[1]), _constant(node.inputs[2])
    given = [index < len(node.inputs) and bool(node.inputs[index].name) for index in (3, 4)]
    axis = _constant(node.inputs[3]) if given[0] else 0
    step = _constant(node.inputs[4]) if given[1] else 1
    return None if start is None or end is None or axis is None or step != 1 else (axis, start, end)


def _clipped(start: int, end: int, size: int) -> tuple[int, int]:
    """Return bounds that count from the start, within the size."""
    ends = (bound + size if bound < 0 else bound for bound in (start, end))
    first, last = (min(max(bound, 0), size) for bound in ends)
    return first, last
