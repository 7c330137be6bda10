"""Write what a Pad, a Resize or a CenterCropPad has for some axes for all axes, where it names the axes it is for.

From opset 18 on, these operators can name their axes. onnxruntime moves transposes through them, around integer
convolutions, and reorders pads, scales and sizes as if there were one for every axis: such a file loads and fails when
it runs (onnxruntime 1.31, its transpose optimizer). It moves none through a Reshape. So an operator that cannot be
rewritten gets one that changes nothing on both sides.
"""

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from passes.graph.normalise.shapes import Dim, infer_shapes
from passes.ir.surgery import fresh_name, is_default_domain, tensor_names

__all__ = ["name_no_axes"]


def name_no_axes(graph: gs.Graph) -> list[str]:
    """Rewrite every operator that names axes and whose input has a known rank. Nodes must have names.

    A Resize with `keep_aspect_ratio_policy` is rewritten only if its scale is known and gives whole sizes. A Pad is
    rewritten only if its axes are constant.

    Returns:
        A line for each.
    """
    named = [node for node in graph.nodes if is_default_domain(node) and _names_axes(node)]
    shapes = infer_shapes(graph) if named else {}
    notes = []
    for node in named:
        shape = shapes.get(node.inputs[0].name)
        if not shape:
            continue
        rewriter = _Rewriter(graph, node)
        if _REWRITES[node.op](rewriter, shape):
            notes.append(f"{node.name}: {node.op} written for all axes")
        else:
            rewriter.enclose(len(shape))
            notes.append(f"{node.name}: {node.op} kept between two Reshapes")
    return notes


def _names_axes(node: gs.Node) -> bool:
    if node.op == "Pad":
        return len(node.inputs) > 3 and not node.inputs[3].is_empty()
    return node.op in _REWRITES and bool(node.attrs.get("axes"))


class _Rewriter:
    """Gives one node longer inputs."""

    def __init__(self, graph: gs.Graph, node: gs.Node) -> None:
        self.graph, self.node = graph, node
        self.taken = tensor_names(graph)
        self.node_names = {str(other.name) for other in graph.nodes}

    def spread(self, index: int, places: Sequence[int], rest: gs.Tensor | NDArray[np.generic]) -> None:
        """Replace an input by elements of itself and of ``rest``, which follow each other in one vector.

        Args:
            index: Index of the input.
            places: For each element of the new input, its index in that vector.
            rest: Elements for the axes that the node does not name.
        """
        source = self.node.inputs[index]
        if isinstance(source, gs.Constant) and not isinstance(rest, gs.Tensor):
            self.node.inputs[index] = self.constant(np.concatenate([source.values, rest.astype(source.dtype)])[places])
            return
        other = rest if isinstance(rest, gs.Tensor) else self.constant(rest)
        joined = self.insert("Concat", [source, other], {"axis": 0})
        order = self.constant(np.array(places, np.int64))
        self.node.inputs[index] = self.insert("Gather", [joined, order], {"axis": 0})

    def constant(self, values: NDArray[np.generic]) -> gs.Constant:
        """Return a new constant."""
        return gs.Constant(fresh_name(f"{self.node.name}_all_axes", self.taken), np.ascontiguousarray(values))

    def insert(self, op: str, inputs: list[gs.Tensor], attrs: dict[str, int] | None = None) -> gs.Variable:
        """Insert a node before the node, and return what it computes."""
        output = gs.Variable(fresh_name(f"{self.node.name}_all_axes", self.taken), inputs[0].dtype)
        name = fresh_name(f"{self.node.name}_{op.lower()}", self.node_names)
        position = next(index for index, other in enumerate(self.graph.nodes) if other is self.node)
        self.graph.nodes.insert(position, gs.Node(op, name, attrs or {}, inputs=inputs, outputs=[output]))
        return output

    def enclose(self, rank: int) -> None:
        """Put a Reshape to the same shape before and behind the node."""
        same = self.constant(np.zeros(rank, np.int64))  # 0: the size of the input
        node, result = self.node, self.node.outputs[0]
        node.inputs[0] = self.insert("Reshape", [node.inputs[0], same])
        node.outputs[0] = gs.Variable(fresh_name(f"{node.name}_result", self.taken), result.dtype)
        name = fresh_name(f"{node.name}_reshape", self.node_names)
        position = next(index for index, other in enumerate(self.graph.nodes) if other is node)
        behind = gs.Node("Reshape", name, inputs=[node.outputs[0], same], outputs=[result])
        self.graph.nodes.insert(position + 1, behind)


def _pad(rewriter: _Rewriter, shape: tuple[Dim, ...]) -> bool:
    node, rank = rewriter.node, len(shape)
    if not isinstance(node.inputs[3], gs.Constant):
        return False
    axes = [int(axis) % rank for axis in node.inputs[3].values.reshape(-1)]
    rewriter.spread(1, _both_ends(axes, rank, 2 * len(axes), 2 * len(axes)), np.zeros(1, np.int64))
    node.inputs.pop()
    return True


def _resize(rewriter: _Rewriter, shape: tuple[Dim, ...]) -> bool:
    node, rank = rewriter.node, len(shape)
    axes = [axis % rank for axis in node.attrs["axes"]]
    count = len(axes)
    one_of_each = [axes.index(axis) if axis in axes else count for axis in range(rank)]
    known = [shape[axis] for axis in axes]
    by_sizes = len(node.inputs) > 3 and not node.inputs[3].is_empty()
    if by_sizes and node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        scales = _kept_ratio(node, known)
        if scales is None:
            return False
        node.inputs.pop()
        node.inputs[2] = rewriter.constant(scales)
        del node.attrs["keep_aspect_ratio_policy"]
        by_sizes = False
    if by_sizes:
        lengths = rewriter.insert("Shape", [node.inputs[0]])
        lengths.dtype = np.dtype(np.int64)
        rewriter.spread(3, [axes.index(axis) if axis in axes else count + axis for axis in range(rank)], lengths)
    else:
        rewriter.spread(2, one_of_each, np.ones(1, np.float32))
    if not node.inputs[1].is_empty():
        rewriter.spread(1, _both_ends(axes, rank, 2 * count, 2 * count + 1), np.array([0, 1], np.float32))
    del node.attrs["axes"]
    return True


def _center_crop_pad(rewriter: _Rewriter, shape: tuple[Dim, ...]) -> bool:
    node, rank = rewriter.node, len(shape)
    axes = [axis % rank for axis in node.attrs["axes"]]
    lengths = rewriter.insert("Shape", [node.inputs[0]])
    lengths.dtype = np.dtype(np.int64)
    rewriter.spread(1, [axes.index(axis) if axis in axes else len(axes) + axis for axis in range(rank)], lengths)
    del node.attrs["axes"]
    return True


_REWRITES = {"Pad": _pad, "Resize": _resize, "CenterCropPad": _center_crop_pad}


def _both_ends(axes: list[int], rank: int, begin: int, end: int) -> list[int]:
    """Return the places of all begins, then of all ends. ``begin`` and ``end``: the places for other axes."""
    begins = [axes.index(axis) if axis in axes else begin for axis in range(rank)]
    ends = [len(axes) + axes.index(axis) if axis in axes else end for axis in range(rank)]
    return begins + ends


def _kept_ratio(node: gs.Node, lengths: Sequence[Dim]) -> NDArray[np.float32] | None:
    """Return the scales of a Resize that keeps the ratio of its axes. None if they are unknown or do not fit."""
    sizes = node.inputs[3]
    if not isinstance(sizes, gs.Constant) or not all(isinstance(length, int) for length in lengths):
        return None
    given = np.array(lengths, np.float32)
    ratios = sizes.values.astype(np.float32) / given
    scale = ratios.min() if node.attrs["keep_aspect_ratio_policy"] == "not_larger" else ratios.max()
    whole = all(  # else the sizes are rounded, and the scales are not; onnx multiplies in double, onnxruntime in float
        np.array_equal(np.floor(product), product) for product in (scale * given, np.float64(scale) * given)
    )
    return np.full(len(given), scale, np.float32) if whole else None
