"""The axis of the channels behind operators that move positions and leave channels as they are.

Such an operator f has ``f(R x) = R f(x)`` for every matrix R over the channels. An axis is counted from the last one,
which is -1, since that is how ONNX aligns operands.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.normalise.shapes import Dim, Shapes

__all__ = ["MOVERS", "PASS_CONSTANTS_ON", "from_last"]


def from_last(axis: int, tensor: gs.Tensor, shapes: Shapes) -> int | None:
    """Return an axis of a tensor counted from the last one. None if the tensor's rank would have to be known."""
    if axis < 0:
        return axis
    shape = shapes.get(str(tensor.name))
    return None if shape is None else axis - len(shape)


def _same(_node: gs.Node, axis: int, _shapes: Shapes) -> int | None:
    return axis


def _transpose(node: gs.Node, axis: int, shapes: Shapes) -> int | None:
    rank = len(shapes.get(str(node.inputs[0].name), ()))
    order = list(node.attrs.get("perm", range(rank)[::-1]))
    return order.index(len(order) + axis) - len(order) if len(order) >= -axis else None


def _reshape(node: gs.Node, axis: int, shapes: Shapes) -> int | None:
    """Find the axis of the same size that has as many numbers behind it, or before it."""
    before, after = (shapes.get(str(tensor.name)) for tensor in (node.inputs[0], node.outputs[0]))
    if before is None or after is None or len(before) < -axis:
        return None
    size, place = before[axis], len(before) + axis
    sides = before[:place], before[place + 1 :]
    for index, other in enumerate(after):
        found = after[:index], after[index + 1 :]
        if size == other and isinstance(size, int) and size > 1 and any(map(_as_many, sides, found)):
            return index - len(after)
    return None


def _as_many(one: Sequence[Dim], other: Sequence[Dim]) -> bool:
    """Return whether axes surely hold as many numbers as others do."""
    counts = [math.prod(size for size in sizes if isinstance(size, int)) for sizes in (one, other)]
    names = [sorted(size for size in sizes if isinstance(size, str)) for sizes in (one, other)]
    return None not in (*one, *other) and counts[0] == counts[1] > 0 and names[0] == names[1]


def _concat(node: gs.Node, axis: int, shapes: Shapes) -> int | None:
    return None if from_last(node.attrs["axis"], node.outputs[0], shapes) in (None, axis) else axis


def _slice(node: gs.Node, axis: int, shapes: Shapes) -> int | None:
    axes = _axes(node, 3)
    if axes is None and (len(node.inputs) <= 3 or not node.inputs[3].name):
        axes = list(range(len(node.inputs[1].values))) if isinstance(node.inputs[1], gs.Constant) else None
    sliced = None if axes is None else {from_last(each, node.inputs[0], shapes) for each in axes}
    return axis if sliced is not None and not sliced & {None, axis} else None


def _gather(node: gs.Node, axis: int, shapes: Shapes) -> int | None:
    along, indices = from_last(node.attrs.get("axis", 0), node.inputs[0], shapes), shapes.get(str(node.inputs[1].name))
    if along is None or along == axis or indices is None:
        return None
    return axis - (len(indices) - 1) if along > axis else axis


def _expand(node: gs.Node, axis: int, shapes: Shapes) -> int | None:
    shape = shapes.get(str(node.inputs[0].name), ())
    size = shape[axis] if len(shape) >= -axis else 1
    return axis if isinstance(size, int) and size > 1 else None


def _reduce(node: gs.Node, axis: int, shapes: Shapes) -> int | None:
    axes = node.attrs.get("axes") or _axes(node, 1)
    reduced = {from_last(each, node.inputs[0], shapes) for each in axes or [axis]}
    if reduced & {None, axis}:
        return None
    return axis if node.attrs.get("keepdims", 1) else axis + sum(each is not None and each > axis for each in reduced)


def _pool(node: gs.Node, axis: int, shapes: Shapes) -> int | None:
    return axis if from_last(1, node.inputs[0], shapes) == axis else None


def _axes(node: gs.Node, index: int) -> list[int] | None:
    """Return the constant axes at an input, or None if there are none."""
    tensor = node.inputs[index] if len(node.inputs) > index else None
    return [int(each) for each in np.ravel(tensor.values)] if isinstance(tensor, gs.Constant) else None


MOVERS: Mapping[str, Callable[[gs.Node, int, Shapes], int | None]] = MappingProxyType(
    {
        **dict.fromkeys(("Dropout", "Identity"), _same),
        **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reshape),
        **dict.fromkeys(("AveragePool", "GlobalAveragePool"), _pool),
        **dict.fromkeys(("ReduceMean", "ReduceSum"), _reduce),
        "Concat": _concat,
        "Expand": _expand,
        "Gather": _gather,
        "Slice": _slice,
        "Transpose": _transpose,
    }
)
"""By operator: the axis of the channels in its output, given that in its first input. None if they are on no axis."""

PASS_CONSTANTS_ON = frozenset(MOVERS) - {"AveragePool", "Concat", "ReduceSum"}
"""Those whose output is ``c`` if all positions of the input are the vector ``c`` over the channels."""
