"""Decide which activation tensors are quantized: those between operators that the target runs on integers.

- A linear layer reads and writes integers.
- Another operator runs on integers if one of its inputs is quantized anyway.
- An operator that only moves values gives its output the grid of its input.
- A Relu or Clip right after a linear layer or an Add is absorbed. Its output is quantized and its input is not, so the
  saturation of the quantizer does the clamp.
- A product with a positive scalar has the codes of its input and another scale.
- A Concat stays in float if no layer reads its result: behind the last layers it joins what has nothing in common, such
  as a detector's boxes of 0 to 640 and scores of 0 to 1, and one grid for both has no room for the scores.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from passes.activations.channels_last import slow_pools
from passes.ir.linear import LINEAR_OPS, why_not_linear
from passes.ir.rules import Rules

__all__ = ["Placement", "clamp_bounds", "place", "scale_factor"]


@dataclass(frozen=True)
class Placement:
    """The quantized activation tensors of one graph.

    Attributes:
        tensors: Quantized activation tensors, in the graph's order. The value is the tensor whose grid is used, often
            the tensor itself.
        bounds: Bounds ``(low, high)`` of a tensor, from an absorbed clamp.
        integer: Names of the nodes that run on integers.
        reasons: Why a node stays in float, by node name, for nodes with a kernel in `Rules` and nodes next to integers.
        factors: Factor of the scale of the grid that a tensor uses, by tensor, where it is not 1.
    """

    tensors: Mapping[str, str]
    bounds: Mapping[str, tuple[float, float]]
    integer: frozenset[str]
    reasons: Mapping[str, str]
    factors: Mapping[str, float] = field(default_factory=dict)


def scale_factor(node: gs.Node) -> float | None:
    """Return the positive scalar by which a Mul or Div multiplies its other operand, or None for any other node."""
    if node.op not in {"Mul", "Div"} or len(node.inputs) != 2:
        return None
    constants = [index for index, tensor in enumerate(node.inputs) if isinstance(tensor, gs.Constant)]
    if len(constants) != 1 or (node.op == "Div" and constants != [1]):
        return None
    values = np.asarray(node.inputs[constants[0]].values)
    if values.size != 1 or values.ndim > 1 or values.dtype.kind != "f":
        return None
    scalar = float(values.reshape(-1)[0])
    factor = 1 / scalar if node.op == "Div" and scalar else scalar
    return factor if 0 < factor < np.inf else None


def clamp_bounds(node: gs.Node) -> tuple[float, float] | None:
    """Return the interval of a Relu or of a Clip with constant bounds, or None for any other node."""
    if node.op == "Relu":
        return 0.0, np.inf
    if node.op != "Clip":
        return None
    bounds = [-np.inf, np.inf]
    for index in (1, 2):
        if len(node.inputs) > index and node.inputs[index].name:
            if not isinstance(node.inputs[index], gs.Constant):
                return None
            bounds[index - 1] = float(np.asarray(node.inputs[index].values).reshape(-1)[0])
    return bounds[0], bounds[1]


def place(graph: gs.Graph, rules: Rules, layers: frozenset[str], floats: frozenset[str] = frozenset()) -> Placement:
    """Decide for every tensor of a topologically sorted graph.

    A tensor may be quantized because of a later node. So the nodes are visited repeatedly, each time with all tensors
    known that were quantized before, until no tensor is added. The result does not depend on the order of the nodes.

    Args:
        graph: The graph.
        rules: What the target accepts.
        layers: Names of the linear layers that are quantized.
        floats: Names of other nodes that stay in float.
    """
    readers: dict[str, list[gs.Node]] = {}
    for node in graph.nodes:
        for tensor in node.inputs:
            readers.setdefault(tensor.name, []).append(node)
    known: frozenset[str] = frozenset()
    while True:
        placement = _Placer(graph, rules, layers, floats, readers, known).run()
        if known.issuperset(placement.tensors):
            return placement
        known = known.union(placement.tensors)


class _Placer:
    """One visit of all nodes. ``known`` are tensors that will be quantized."""

    def __init__(
        self,
        graph: gs.Graph,
        rules: Rules,
        layers: frozenset[str],
        floats: frozenset[str],
        readers: Mapping[str, list[gs.Node]],
        known: frozenset[str],
    ) -> None:
        self.graph, self.rules, self.layers, self.floats = graph, rules, layers, floats
        self.readers, self.known = readers, known
        self.outputs = {tensor.name for tensor in graph.outputs}
        self.fused = (
            _fused(graph, rules, layers, floats, readers, self.outputs) if rules.fused_adds else frozenset[str]()
        )
        self.slow = _slow_pools(graph, rules, layers) if rules.channels_last else frozenset[str]()
        self.wanted = _wanted(graph, rules, layers, floats, self.outputs, self.slow)
        self.tensors: dict[str, str] = {}
        self.bounds: dict[str, tuple[float, float]] = {}
        self.integer: set[str] = set()
        self.reasons: dict[str, str] = {}
        self.factors: dict[str, float] = {}

    def run(self) -> Placement:
        for node in self.graph.nodes:
            if node.name in self.integer:
                continue
            reason = self.layer(node) if node.op in LINEAR_OPS else self.operator(node)
            if reason:
                self.reasons[node.name] = reason
        return Placement(self.tensors, self.bounds, frozenset(self.integer), self.reasons, self.factors)

    def layer(self, node: gs.Node) -> str | None:
        """Place a linear layer. Return why it stays in float, or None if it does not."""
        reason = _why_float_linear(node, self.rules, self.layers)
        if reason:
            return reason
        self.tensors.setdefault(node.inputs[0].name, node.inputs[0].name)
        self.integer.add(node.name)
        writes_floats = node.op in self.rules.float_outputs
        if writes_floats and self.rules.on_demand and not self.read(node, self.wanted | self.known):
            return None
        result = self.result_of(node)
        whole = result in self.outputs and result == node.outputs[0].name
        if result not in self.fused and not (whole and writes_floats):
            self.tensors.setdefault(result, result)
        return None

    def operator(self, node: gs.Node) -> str | None:
        """Place any other operator. Return why it stays in float if it is next to integers, or None."""
        data = [tensor for tensor in _data(node, self.rules) if tensor.name not in self.fused]
        if not any(tensor.name in self.tensors or tensor.name in self.known for tensor in data):
            return None
        reason = _why_float(node, self.rules, data, self.outputs, self.slow, self.floats)
        if reason:
            return reason
        on_demand = self.rules.on_demand or node.op == "Concat"
        if on_demand and not any(output.name in self.wanted for output in node.outputs):
            return "no layer reads its result on integers"
        self.integer.add(node.name)
        for tensor in data:
            self.tensors.setdefault(tensor.name, tensor.name)
        factor = scale_factor(node) if self.rules.scalars else None
        if node.op in self.rules.moving or factor is not None:
            self.keep_grid(node, str(data[0].name), factor or 1.0)
        else:
            self.tensors.setdefault(*(2 * (self.result_of(node),)))
        return None

    def keep_grid(self, node: gs.Node, source: str, factor: float) -> None:
        """Give the outputs of a node the scaled grid of its input."""
        scale = self.factors.get(source, 1.0) * factor
        for output in node.outputs:
            self.tensors.setdefault(output.name, self.tensors[source])
            if scale != 1:
                self.factors[output.name] = scale

    def result_of(self, node: gs.Node) -> str:
        """Return the tensor to quantize for this node's output: the output of an absorbed clamp, or its own."""
        name = str(node.outputs[0].name)
        following = self.readers.get(name, [])
        if len(following) == 1 and name not in self.outputs and following[0].op in self.rules.absorbable:
            clamp = clamp_bounds(following[0])
            if clamp is not None and clamp[0] <= 0 <= clamp[1]:
                result = str(following[0].outputs[0].name)
                self.bounds[result] = clamp
                self.integer.add(following[0].name)
                return result
        return name

    def read(self, node: gs.Node, tensors: frozenset[str]) -> bool:
        """Return whether one of the tensors is the output of the node or of a clamp behind it."""
        name = node.outputs[0].name
        clamps = [reader for reader in self.readers.get(name, []) if clamp_bounds(reader) is not None]
        return name in tensors or any(clamp.outputs[0].name in tensors for clamp in clamps)


def _data(node: gs.Node, rules: Rules) -> list[gs.Tensor]:
    """Return the operands that an operator would read as integers."""
    data = [tensor for tensor in node.inputs if not isinstance(tensor, gs.Constant) and tensor.name]
    return data[:1] if node.op in rules.moving else data


def _slow_pools(graph: gs.Graph, rules: Rules, layers: frozenset[str]) -> frozenset[str]:
    """Return the MaxPools whose integer kernel is slow."""
    convolutions = {
        str(node.name) for node in graph.nodes if node.op == "Conv" and _why_float_linear(node, rules, layers) is None
    }
    return slow_pools(graph, convolutions, rules.compute | rules.moving | rules.absorbable)


def _wanted(
    graph: gs.Graph,
    rules: Rules,
    layers: frozenset[str],
    floats: frozenset[str],
    outputs: set[str],
    slow: frozenset[str],
) -> frozenset[str]:
    """Return the tensors that a layer reads as integers, directly or through operators that can run on integers."""
    wanted: set[str] = set()
    for node in reversed(graph.nodes):
        if node.op in LINEAR_OPS:
            if _why_float_linear(node, rules, layers) is None:
                wanted.add(node.inputs[0].name)
        elif any(output.name in wanted for output in node.outputs):
            data = _data(node, rules)
            absorbed = node.op in rules.absorbable and clamp_bounds(node) is not None
            if absorbed or _why_float(node, rules, data, outputs, slow, floats) is None:
                wanted.update(tensor.name for tensor in data)
    return frozenset(wanted)


def _fused(
    graph: gs.Graph,
    rules: Rules,
    layers: frozenset[str],
    floats: frozenset[str],
    readers: Mapping[str, list[gs.Node]],
    outputs: set[str],
) -> frozenset[str]:
    """Return the convolution result that each Add reads without rounding: of two, the one that is computed last."""
    order = {
        node.outputs[0].name: index
        for index, node in enumerate(graph.nodes)
        if node.op == "Conv" and _why_float_linear(node, rules, layers) is None
    }
    fused = set()
    for node in graph.nodes:
        if node.op != "Add" or node.name in floats or any(isinstance(tensor, gs.Constant) for tensor in node.inputs):
            continue
        candidates = [
            tensor.name
            for tensor in node.inputs
            if tensor.name in order and len(readers[tensor.name]) == 1 and tensor.name not in outputs
        ]
        if candidates:
            fused.add(max(candidates, key=order.__getitem__))
    return frozenset(fused)


def _why_float_linear(node: gs.Node, rules: Rules, layers: frozenset[str]) -> str | None:
    reason = why_not_linear(node) or (None if node.name in layers else "left in float by the recipe")
    return reason or rules.why_no_kernel(node.op, len(node.inputs[1].shape), int(node.attrs.get("group", 1)))


def _why_float(
    node: gs.Node,
    rules: Rules,
    data: list[gs.Variable],
    outputs: set[str],
    slow: frozenset[str],
    floats: frozenset[str],
) -> str | None:
    if node.name in floats:
        return "left in float by the recipe"
    factor = scale_factor(node) if rules.scalars else None
    if node.op not in rules.compute | rules.moving and factor is None:
        return f"the target has no integer {node.op}"
    if any(output.name in outputs for output in node.outputs):
        return "it writes a graph output"
    if node.op in rules.moving and data[0].name != node.inputs[0].name:
        return "its first input is a constant"
    if node.op in rules.compute and factor is None:
        constants = [tensor for tensor in node.inputs if isinstance(tensor, gs.Constant)]
        scalars = rules.scalars and node.op in {"Add", "Mul"}
        if any(not scalars or np.asarray(tensor.values).size != 1 for tensor in constants):
            return "one operand is a constant"
    if node.op == "Resize" and node.attrs.get("mode", "nearest") != "nearest":
        return "only nearest Resize has an integer kernel"
    if node.op == "AveragePool" and any(step != 1 for step in node.attrs.get("dilations", ())):
        return "only AveragePool without dilations has an integer kernel"
    if node.op == "AveragePool" and node.attrs.get("ceil_mode", 0) and node.attrs.get("count_include_pad", 0):
        return "the integer AveragePool counts what it rounds up to, and the float one does not"
    if node.name in slow:
        return "its integer kernel is slow away from convolutions"
    if node.op == "MaxPool" and len(node.outputs) > 1:
        return "it also writes indices"
    if any(tensor.dtype is not None and np.dtype(tensor.dtype).kind != "f" for tensor in data):
        return "its operands are not float"
    return None
