"""The effect of every operator on positive per-channel scales: the rules for `passes.scale_migration.scale_ties`.

Positive homogeneity, ``f(s x) = s f(x)`` for every ``s > 0``, holds for Relu, LeakyRelu, PRelu, pools, zero padding,
Resize and all operators that only move values. It holds for sums if all terms have the same scale (Nagel et al. 2019,
arXiv:1906.04721, §4.1; Meller et al. 2019, arXiv:1902.01917). All other operators fix the scales of their inputs and
outputs at 1.

Each rule ties the wires of a node. It returns why that is not possible, or None.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from passes.activations.placement import clamp_bounds
from passes.ir.surgery import is_default_domain
from passes.scale_migration.scale_ties import Indices, Shift, Ties, Wires, activations

__all__ = ["aligned", "tie"]


def _constant(node: gs.Node, index: int) -> NDArray[np.generic] | None:
    if len(node.inputs) <= index or not isinstance(node.inputs[index], gs.Constant):
        return None
    return np.asarray(node.inputs[index].values)


def _omitted(node: gs.Node, index: int) -> bool:
    return len(node.inputs) <= index or not node.inputs[index].name


_UNKNOWN = "reads a tensor whose channels are not known"


# --- one input, the same channels ------------------------------------------------------------------------------------


def _elementwise(ties: Ties, node: gs.Node) -> str | None:
    source = ties.read(node.inputs[0])
    if source is None:
        return _UNKNOWN
    ties.write(node.outputs[0], source.ids, source.axis, source.rank)
    return None


def _prelu(ties: Ties, node: gs.Node) -> str | None:
    return _elementwise(ties, node) if _constant(node, 1) is not None else "has slopes that are not constants"


def _clip(ties: Ties, node: gs.Node) -> str | None:
    bounds = clamp_bounds(node)
    if bounds is None or "min" in node.attrs or "max" in node.attrs:
        return "has bounds that are not constant inputs"
    if not all(bound == 0 or np.isinf(bound) for bound in bounds):
        return f"clips every channel at the same bound: {bounds[0]:g} to {bounds[1]:g}"
    return _elementwise(ties, node)


def _pool(ties: Ties, node: gs.Node) -> str | None:
    source = ties.read(node.inputs[0])
    if source is None or source.axis != 1:
        return _UNKNOWN
    if any(tensor.outputs for tensor in node.outputs[1:]):
        return "also writes indices"
    return _elementwise(ties, node)


def _resize(ties: Ties, node: gs.Node) -> str | None:
    source, shape = ties.read(node.inputs[0]), ties.shapes.get(node.outputs[0].name, ())
    if source is None or len(shape) != source.rank or shape[source.axis] != len(source.ids):
        return "may resize the channels"
    if node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return "fills what lies outside with a number"
    return _elementwise(ties, node)


def _pad(ties: Ties, node: gs.Node) -> str | None:
    source, pads = ties.read(node.inputs[0]), _constant(node, 1)
    if source is None or pads is None:
        return _UNKNOWN if source is None else "has pads that are not constants"
    axes = np.arange(source.rank) if _omitted(node, 3) else _constant(node, 3)
    value = np.zeros(1) if _omitted(node, 2) else _constant(node, 2)
    if axes is None or value is None:
        return "has axes or a value that are not constants"
    if node.attrs.get("mode", "constant") == "constant" and np.any(value != 0):
        return f"pads with {value.reshape(-1)[0]:g}"
    entries = np.flatnonzero(axes % source.rank == source.axis)
    ids = source.ids
    if entries.size:
        begin, end = (int(pads[entries[0] + offset]) for offset in (0, len(axes)))
        if (begin or end) and node.attrs.get("mode", "constant") != "constant":
            return "repeats channels"
        ids = ids[max(-begin, 0) : len(ids) - max(-end, 0)]
        ids = np.concatenate(
            [ties.fresh(max(begin, 0)), ids, ties.fresh(max(end, 0))]
        )  # padded zeros may have any scale
    ties.write(node.outputs[0], ids, source.axis, source.rank)
    return None


# --- one input, channels moved ---------------------------------------------------------------------------------------


def _concat(ties: Ties, node: gs.Node) -> str | None:
    sources = [ties.read(tensor) for tensor in node.inputs]
    known = [source for source in sources if source is not None]
    if len(known) != len(sources) or len({(source.axis, source.rank) for source in known}) != 1:
        return _UNKNOWN
    first = known[0]
    if node.attrs["axis"] % first.rank == first.axis:
        ids = np.concatenate([source.ids for source in known])
        ties.write(node.outputs[0], ids, first.axis, first.rank)
        return None
    for source in known[1:]:
        ties.join(first.ids, source.ids)
    return _elementwise(ties, node)


def _split(ties: Ties, node: gs.Node) -> str | None:
    source = ties.read(node.inputs[0])
    if source is None:
        return _UNKNOWN
    if node.attrs.get("axis", 0) % source.rank != source.axis:
        parts: Sequence[Indices] = [source.ids] * len(node.outputs)
    else:
        sizes = node.attrs.get("split") if _omitted(node, 1) else _constant(node, 1)
        if sizes is None and not _omitted(node, 1):
            return "has sizes that are not constants"
        if sizes is None:
            size = -(-len(source.ids) // len(node.outputs))  # the last part may be smaller
            sizes = [size] * (len(node.outputs) - 1)
        else:
            sizes = list(np.asarray(sizes))[:-1]
        parts = np.split(source.ids, np.cumsum(sizes).astype(np.intp)) if sizes else [source.ids]
    for output, ids in zip(node.outputs, parts, strict=True):
        ties.write(output, ids, source.axis, source.rank)
    return None


def _slice(ties: Ties, node: gs.Node) -> str | None:
    source, starts, ends = ties.read(node.inputs[0]), _constant(node, 1), _constant(node, 2)
    if source is None or starts is None or ends is None:
        return _UNKNOWN if source is None else "has bounds that are not constant inputs"
    axes = np.arange(len(starts)) if _omitted(node, 3) else _constant(node, 3)
    steps = np.ones(len(starts), np.int64) if _omitted(node, 4) else _constant(node, 4)
    if axes is None or steps is None:
        return "has axes or steps that are not constants"
    ids = source.ids
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), axes.tolist(), steps.tolist(), strict=True):
        if axis % source.rank == source.axis:
            ids = ids[start:end:step]
    ties.write(node.outputs[0], ids, source.axis, source.rank)
    return None


def _flatten(ties: Ties, node: gs.Node) -> str | None:
    source = ties.read(node.inputs[0])
    sizes = ties.shapes.get(node.inputs[0].name, ())[1:]
    if source is None or node.attrs.get("axis", 1) != 1 or not all(isinstance(size, int) for size in sizes):
        return "flattens an unknown number of positions"
    one_axis = source.ids.reshape(-1, *[1] * (source.rank - source.axis - 1))  # [c, 1, ...]
    ids = np.broadcast_to(one_axis, sizes).reshape(-1)  # type: ignore[arg-type]  # all are int
    ties.write(node.outputs[0], ids, 1, 2)
    return None


def _transpose(ties: Ties, node: gs.Node) -> str | None:
    source = ties.read(node.inputs[0])
    if source is None:
        return _UNKNOWN
    order = list(node.attrs.get("perm", range(source.rank)[::-1]))
    ties.write(node.outputs[0], source.ids, order.index(source.axis), source.rank)
    return None


# --- several inputs --------------------------------------------------------------------------------------------------


def _sum(ties: Ties, node: gs.Node) -> str | None:
    """Tie sums, differences, maxima and minima: all operands share the scale, and constants are rescaled."""
    operands = [ties.read(tensor) for tensor in activations(node.inputs)]
    joined = aligned(node, operands)
    if isinstance(joined, str):
        return joined
    for wires in operands:
        assert wires is not None  # `aligned` refuses it
        ties.join(joined.ids, np.broadcast_to(wires.ids, joined.ids.shape))
    for index, tensor in enumerate(node.inputs):
        if isinstance(tensor, gs.Constant):
            ties.shifts.append(Shift(str(node.name), index, joined.ids, joined.from_right))
    ties.write(node.outputs[0], joined.ids, joined.axis, joined.rank)
    return None


def _product(ties: Ties, node: gs.Node) -> str | None:
    """Tie a product: it has the scale of one operand if the scales of all others are fixed."""
    operands = [ties.read(tensor) for tensor in activations(node.inputs)]
    if node.op == "Div" and (len(operands) > 1 or isinstance(node.inputs[0], gs.Constant)):
        return "divides by an activation"
    together = aligned(node, operands)
    if isinstance(together, str):
        return together
    free = [wires.ids for wires in operands if wires is not None and not ties.is_fixed(wires)]
    if len(free) > 1:
        return "multiplies two scaled tensors"
    ids = np.broadcast_to(free[0], together.ids.shape) if free else together.ids
    ties.write(node.outputs[0], ids, together.axis, together.rank)
    return None


def aligned(node: gs.Node, operands: Sequence[Wires | None]) -> Wires | str:
    """Return the output's wires, which are those of the operand with most channels.

    If the channels of the operands do not correspond one to one, it returns the reason instead.
    """
    known = [wires for wires in operands if wires is not None]
    if len(known) != len(operands) or not known:
        return _UNKNOWN
    shapes = [tuple(tensor.shape) for tensor in node.inputs if isinstance(tensor, gs.Constant)]
    from_right = known[0].from_right
    if any(wires.from_right != from_right for wires in known):
        return "combines different axes"
    rank = max(*(wires.rank for wires in known), *(len(shape) for shape in shapes), 0)
    widest = max(known, key=lambda wires: len(wires.ids)).ids
    count = max(len(widest), *(int(shape[from_right]) for shape in shapes if len(shape) >= -from_right), 0)
    if any(len(wires.ids) not in {1, count} for wires in known):
        return _UNKNOWN
    return Wires(np.broadcast_to(widest, (count,)), rank + from_right, rank)


Rule = Callable[[Ties, gs.Node], str | None]

_RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **dict.fromkeys(("Relu", "LeakyRelu", "Abs", "Neg", "Identity", "Dropout"), _elementwise),
        **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"), _pool),
        **dict.fromkeys(("Add", "Sub", "Sum", "Mean", "Max", "Min"), _sum),
        **dict.fromkeys(("Mul", "Div"), _product),
        "PRelu": _prelu,
        "Clip": _clip,
        "Resize": _resize,
        "Pad": _pad,
        "Concat": _concat,
        "Split": _split,
        "Slice": _slice,
        "Flatten": _flatten,
        "Transpose": _transpose,
    }
)


def tie(ties: Ties, node: gs.Node) -> None:
    """Tie the inputs of ``node`` to its outputs, or fix both with a reason."""
    if node.op in {"Shape", "Size"}:
        return  # they do not read values
    rule = _RULES.get(node.op) if is_default_domain(node) else None
    reason = "does not pass a channel's scale on" if rule is None else rule(ties, node)
    if reason is not None:
        ties.fix_node(node, f"{node.name} ({node.op}) {reason}")
