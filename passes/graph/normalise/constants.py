"""Turn Constant nodes, and nodes that read only constants, into initializers.

onnx's reference implementation (numpy) evaluates one node at a time. Only deterministic operators of a list are
evaluated. Results are cast to the type that ONNX prescribes, because numpy may return float64.

What generates a large constant (zeros of a shape, a range, a tiled or broadcast table) stays a node, unless a layer
reads the constant as its weight: the file would have to hold the result, which is larger than what it is made from.
onnxruntime evaluates such nodes once, when it loads the file.
"""

import math
from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx_graphsurgeon.ir.tensor import LazyValues

from passes.ir.large_constants import LargeConstant, TransposedValues, Values, assign
from passes.ir.linear import LINEAR_OPS
from passes.ir.surgery import graph_output_names, is_default_domain, remove_node, replace_input, sole_consumer

__all__ = ["fold_constants", "lower_constant_nodes"]

Array = NDArray[np.generic]

_VALUE_TYPES = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
_MOVES = frozenset(
    ["Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Cast"]
)  # they do not compute values
# fmt: off
_FOLDABLE = _MOVES | frozenset([
    "Abs", "Add", "And", "CastLike", "Ceil", "Clip", "Concat", "ConstantOfShape", "Div", "Equal", "Exp", "Expand",
    "Floor", "Gather", "Greater", "Less", "MatMul", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Range",
    "Reciprocal", "ReduceL2", "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Shape", "Size",
    "Slice", "Sqrt", "Sub", "Sum", "Tile", "Where",
])
# fmt: on
_BROADCAST = frozenset(["Add", "And", "Div", "Equal", "Greater", "Less", "Mod", "Mul", "Or", "Pow", "Sub", "Where"])
_VALUE_BYTES = 1 << 10  # results up to this size always fold
_WEIGHT_ELEMENTS = 1 << 18  # the same, of what layers read as a weight


def lower_constant_nodes(graph: gs.Graph) -> list[str]:
    """Turn Constant nodes into initializers, except graph outputs.

    Returns:
        A line with the number of changes, or nothing.
    """
    outputs = graph_output_names(graph)
    count = 0
    for node in [node for node in graph.nodes if node.op == "Constant" and is_default_domain(node)]:
        (key, value), *_ = node.attrs.items()
        if node.outputs[0].name in outputs or not (key == "value" or key in _VALUE_TYPES):
            continue  # strings and sparse tensors are not weights
        values = (
            value._values if key == "value" else np.array(value, _VALUE_TYPES[key])
        )  # _values does not load the data
        _become_constant(graph, node, values)
        count += 1
    return [f"{count} Constant nodes replaced by initializers"] if count else []


def fold_constants(graph: gs.Graph) -> list[str]:
    """Evaluate nodes that read only constants, and Shape and CastLike nodes that need only a known shape or type.

    A weight that is only moved (Transpose, Reshape, Cast, ...) keeps its name, so that the layer that reads it can be
    named after it. The graph must be sorted.

    Returns:
        A line with the number of changes, or nothing.
    """
    outputs = graph_output_names(graph)
    counts: dict[str, int] = {}
    weights = _weight_nodes(graph)
    for node in list(graph.nodes):
        if node.op not in _FOLDABLE or not is_default_domain(node) or len(node.outputs) != 1:
            continue
        if node.outputs[0].name in outputs:
            continue
        values = _value(graph, node, weight=id(node) in weights)
        if values is None:
            continue
        counts[node.op] = counts.get(node.op, 0) + 1
        source = node.inputs[0]
        only_moves = node.op in _MOVES and isinstance(source, gs.Constant) and sole_consumer(graph, source) is node
        name = source.name
        target = _become_constant(graph, node, values)
        if only_moves:
            _rename(target, name)
    listed = ", ".join(f"{count} {op}" for op, count in sorted(counts.items()))
    return [f"folded nodes that read constants only: {listed}"] if counts else []


def _become_constant(graph: gs.Graph, node: gs.Node, values: Values) -> gs.Constant:
    """Replace `node` with an initializer that has the name of its output."""
    output = node.outputs[0]
    constant = gs.Constant(output.name, values)
    assign(constant, values)
    for consumer in list(output.outputs):
        replace_input(consumer, output, constant)
    remove_node(graph, node)
    return constant


def _rename(constant: gs.Constant, name: str) -> None:
    constant.name = name


def _weight_nodes(graph: gs.Graph) -> set[int]:
    """Return the ids of the nodes that make constants of layers and of batch normalizations."""
    constant: set[int] = set()  # tensors that need no input of the graph
    for node in graph.nodes:
        made = node.op in _FOLDABLE and all(
            isinstance(tensor, gs.Constant) or tensor.is_empty() or id(tensor) in constant for tensor in node.inputs
        )
        if made or (node.op == "Shape" and _static_shape(node) is not None):
            constant.update(id(tensor) for tensor in node.outputs)
    found: set[int] = set()
    layers = [node for node in graph.nodes if node.op in LINEAR_OPS or node.op == "BatchNormalization"]
    waiting = [tensor for node in layers for tensor in node.inputs if id(tensor) in constant]
    while waiting:
        for node in waiting.pop().inputs:
            if id(node) not in found:
                found.add(id(node))
                waiting.extend(tensor for tensor in node.inputs if id(tensor) in constant)
    return found


def _value(graph: gs.Graph, node: gs.Node, *, weight: bool) -> Values | None:
    if weight and _turns_table(node):
        return TransposedValues(node.inputs[0]._values)
    if node.op == "Shape":
        return _static_shape(node)
    if node.op == "CastLike":
        return _cast_like(node)
    return _evaluate(graph, node, weight=weight)


def _turns_table(node: gs.Node) -> bool:
    """Whether a node transposes a large table whose rows other nodes read. A layer may then share its codes."""
    source = node.inputs[0]
    if node.op != "Transpose" or not isinstance(source, LargeConstant) or len(source.shape) != 2:
        return False
    whole = list(node.attrs.get("perm", [1, 0])) == [1, 0]
    return whole and isinstance(source._values, LazyValues) and any(reader.op == "Gather" for reader in source.outputs)


def _cast_like(node: gs.Node) -> Array | None:
    """Cast a constant to the type of another tensor, whose values are not needed."""
    value, like = node.inputs
    if not isinstance(value, gs.Constant) or not isinstance(like.dtype, np.dtype):
        return None
    return np.array(value.values, like.dtype)


def _static_shape(node: gs.Node) -> Array | None:
    shape = node.inputs[0].shape
    if shape is None or not all(isinstance(size, int) and size >= 0 for size in shape):
        return None
    start, end = node.attrs.get("start", 0), node.attrs.get("end")
    return np.array(list(shape)[start:end], np.int64)


def _evaluate(graph: gs.Graph, node: gs.Node, *, weight: bool) -> Array | None:
    """Return the node's value, or None if an input is not constant or if the value is too large to store.

    Args:
        graph: The graph.
        node: The node.
        weight: Whether a layer reads the value. Then it may be large.
    """
    present = [tensor for tensor in node.inputs if not tensor.is_empty()]
    if not all(isinstance(tensor, gs.Constant) and isinstance(tensor.dtype, np.dtype) for tensor in present):
        return None
    inputs = [tensor.values for tensor in present]
    elements = _elements(node, inputs)
    if weight and elements > max(_WEIGHT_ELEMENTS, sum(values.size for values in inputs)):
        return None
    replaced = sum(tensor.values.nbytes for tensor in present if sole_consumer(graph, tensor) is node)
    if not weight and elements > max(_VALUE_BYTES, replaced):  # an element has a byte at least
        return None
    if node.op == "Identity":
        return np.array(inputs[0])
    model = _single_node_model(graph, node, present)
    expected = onnx.shape_inference.infer_shapes(model).graph.output[0].type.tensor_type.elem_type
    names = [tensor.name for tensor in present]
    (result,) = ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))
    values = np.array(result, onnx.helper.tensor_dtype_to_np_dtype(expected) if expected else None)
    return values if weight or values.nbytes <= max(_VALUE_BYTES, replaced) else None


def _elements(node: gs.Node, inputs: list[Array]) -> float:
    """Return the size of the result of an operator that can enlarge its inputs, or 0 for other operators."""
    growing: dict[str, Callable[[], float]] = {
        "ConstantOfShape": lambda: math.prod(inputs[0].tolist()),
        "Expand": lambda: math.prod(np.broadcast_shapes(inputs[0].shape, tuple(inputs[1].tolist()))),
        "Tile": lambda: inputs[0].size * math.prod(inputs[1].tolist()),
        "Range": lambda: (inputs[1].item() - inputs[0].item()) / inputs[2].item(),
        "MatMul": lambda: inputs[0].size * inputs[1].shape[-1] / inputs[0].shape[-1],
    }
    if node.op in _BROADCAST:
        return float(math.prod(np.broadcast_shapes(*(values.shape for values in inputs))))
    return float(growing[node.op]()) if node.op in growing else 0.0


def _single_node_model(graph: gs.Graph, node: gs.Node, inputs: list[gs.Constant]) -> onnx.ModelProto:
    attributes = {key: value for key, value in node.attrs.items() if not isinstance(value, gs.Constant)}
    proto = onnx.helper.make_node(node.op, [t.name for t in node.inputs], [node.outputs[0].name], **attributes)
    for key, value in node.attrs.items():
        if isinstance(value, gs.Constant):
            proto.attribute.append(onnx.helper.make_attribute(key, onnx.numpy_helper.from_array(value.values, key)))
    unique = {tensor.name: tensor for tensor in inputs}
    infos = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(t.dtype), list(t.shape))
        for name, t in unique.items()
    ]
    output = onnx.ValueInfoProto(name=node.outputs[0].name)
    return onnx.helper.make_model(
        onnx.helper.make_graph([proto], "one node", infos, [output]),
        opset_imports=[onnx.helper.make_opsetid("", graph.opset)],
    )
