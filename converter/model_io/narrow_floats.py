"""Write float32 as float16: as the type that nodes compute in, or only as the type that weights are stored in.

A node computes in float16 if its operator has a form for it in the ONNX standard and `_Narrower.why_float32` is silent.
Casts stand where the two meet. Inputs and outputs of the graph keep their types.

onnxruntime's own converter (`onnxruntime.transformers.float16`) was not used: it clamps constants that do not fit
without saying so, so that 1e-12 becomes 6e-8, and it knows nothing of the values that flow through the model.
"""

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from converter.model_io.protobuf import subgraphs, tensor_names
from converter.model_io.tensor_types import inferred_types
from passes.ir.fresh_name import fresh_name

__all__ = ["LARGEST", "compute_in_float16", "store_as_float16"]

LARGEST = float(np.finfo(np.float16).max)
_LEAST = 2.0**-24  # smallest float16 above 0
_WORTH_STORING = 128  # elements of a constant for which a Cast takes less room than half of them

_NARROW = frozenset(
    [
        *("Abs", "Add", "And", "ArgMax", "ArgMin", "AveragePool", "BatchNormalization", "Cast", "Ceil", "Clip"),
        *("Compress", "Concat", "Conv", "ConvTranspose", "Cos", "DepthToSpace", "Div", "Einsum", "Elu", "Equal"),
        *("Erf", "Expand", "Flatten", "Floor", "GRU", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm"),
        *("GlobalAveragePool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "GroupNormalization", "HardSigmoid"),
        *("HardSwish", "Identity", "InstanceNormalization", "LSTM", "LayerNormalization", "LeakyRelu", "Less"),
        *("LessOrEqual", "MatMul", "MatMulNBits", "Max", "MaxPool", "Mean", "Min", "Mish", "Mul", "Neg", "PRelu"),
        *("Pad", "RMSNormalization", "ReduceMax", "ReduceMean", "ReduceMin", "Relu", "Reshape", "Resize", "Round"),
        *("ScatterElements", "ScatterND", "Selu", "Sigmoid", "Sign", "Sin", "Slice", "Softmax", "Softplus"),
        *("Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "TopK", "Transpose"),
        *("Unsqueeze", "Where"),
    ]
)
_SENSITIVE = frozenset(
    [
        *("Acos", "Asin", "CumSum", "Exp", "Log", "LogSoftmax", "LpNormalization", "MeanVarianceNormalization"),
        *("Pow", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "ReduceSum"),
        *("ReduceSumSquare", "Tan"),
    ]
)
_FLOAT32_STATISTICS = frozenset({"LayerNormalization"})  # outputs after the first have no float16 in ONNX
_QUANTIZERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})


def store_as_float16(model: onnx.ModelProto) -> int:
    """Store large float32 constants as float16 behind a Cast, in place. onnxruntime folds the Cast when it loads.

    Constants with finite values that float16 cannot hold stay as they are, and so do those of QuantizeLinear and
    DequantizeLinear.

    Returns:
        The number of bytes that the constants take less.
    """
    graph, taken, casts, saved = model.graph, set(tensor_names(model.graph)), list[NodeProto](), 0
    linear = {
        name for node in graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"} for name in node.input
    }
    outputs = {value.name for value in graph.output}
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or tensor.name in linear | outputs:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < _WORTH_STORING or _beyond(values) is not None:
            continue
        name, stored = tensor.name, fresh_name(f"{tensor.name}_float16", taken)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(helper.make_node("Cast", [stored], [name], name=f"{stored}_cast", to=TensorProto.FLOAT))
        saved += values.nbytes // 2
    _set_nodes(graph, [*casts, *graph.node])
    return saved


def compute_in_float16(model: onnx.ModelProto, kept: Mapping[str, str], large: Mapping[str, float]) -> dict[str, str]:
    """Let the nodes of a graph compute in float16, in place.

    Args:
        model: The model. Bodies of control flow stay in float32, and so does what they read.
        kept: Why a node stays in float32, by its name.
        large: The largest magnitude of tensors whose values float16 does not hold.

    Returns:
        Why a node stays in float32, by its name, for all that could have been in float16 by their types.
    """
    return _Narrower(model, kept, large).run()


class _Narrower:
    def __init__(self, model: onnx.ModelProto, kept: Mapping[str, str], large: Mapping[str, float]) -> None:
        self.graph, self.kept, self.large = model.graph, kept, large
        types = inferred_types(model)
        self.types = {name: kind.tensor_type.elem_type for name, kind in types.items()}
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        self.taken = set(tensor_names(self.graph))
        self.makers = {name: node for node in self.graph.node for name in node.output}
        self.initializers |= {name: tensor for node in self.graph.node for name, tensor in _constant(node).items()}
        self.constant = set(self.initializers)
        for node in self.graph.node:
            if node.input and self.constant.issuperset(filter(None, node.input)) and not list(subgraphs(node)):
                self.constant.update(node.output)
        self.read = {name for node in self.graph.node for name in (*node.input, *_read_inside(node))}
        self.read |= {value.name for value in self.graph.output}
        self.quantized = {name for node in self.graph.node if node.op_type in _QUANTIZERS for name in node.input}
        self.halves: dict[str, str] = {}  # float32 tensor -> the same in float16
        self.missing: set[str] = set()  # tensors that exist in float16 only
        self.nodes: list[NodeProto] = []
        self.added: list[TensorProto] = []

    def run(self) -> dict[str, str]:
        reasons = {}
        for node in self.graph.node:
            floats = [name for name in (*node.input, *node.output) if self.is_float(name)]
            reason = self.why_float32(node) if floats else None
            if floats and reason is None:
                self.narrow(node)
                continue
            if reason:
                reasons[node.name or node.output[0]] = reason
            for name in (*node.input, *_read_inside(node)):
                self.widen(name)
            self.nodes.append(node)
            if node.op_type == "Cast" and self.types.get(node.input[0]) == TensorProto.FLOAT16:
                self.halves[node.output[0]] = node.input[0]
        for value in self.graph.output:
            self.widen(value.name)
        self.finish()
        return reasons

    def is_float(self, name: str) -> bool:
        return self.types.get(name) == TensorProto.FLOAT

    def why_float32(self, node: NodeProto) -> str | None:
        """Return why a node with float32 inputs or outputs stays as it is. Empty if that goes without saying."""
        own, named = node.domain in {"", "ai.onnx"}, node.name or node.output[0]
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"} or self.constant.issuperset(node.output):
            return ""
        if node.op_type == "Cast" and TensorProto.FLOAT16 in map(self.types.get, (*node.input, *node.output)):
            return ""
        if node.op_type == "Cast" and self.is_float(node.input[0]):
            return ""
        if named in self.kept:
            return self.kept[named]
        if own and node.op_type in _SENSITIVE:
            return f"{node.op_type} soon leaves the range of float16"
        if node.op_type not in _NARROW or not (own or node.op_type == "MatMulNBits"):
            return f"{node.op_type} has no form in float16 that is known to be safe"
        if node.op_type in _FLOAT32_STATISTICS and self.read.intersection(filter(None, node.output[1:])):
            return f"{node.op_type} has no form in float16 for its further outputs"
        if any(self.reads_integers(name) for name in node.input) or self.quantized.intersection(node.output):
            return "it is next to integers"
        for name in (*node.input, *node.output):
            if name in self.large:
                return f"{name} reaches {self.large[name]:.3g}, and float16 ends at {LARGEST:.0f}"
            if self.is_float(name) and name in self.initializers:
                beyond = _beyond(numpy_helper.to_array(self.initializers[name]))
                if beyond is not None:
                    return f"the constant {name} has {beyond:.3g}, which float16 does not hold"
        return None

    def reads_integers(self, name: str) -> bool:
        maker = self.makers.get(name)
        return maker is not None and maker.op_type == "DequantizeLinear" and name not in self.constant

    def narrow(self, node: NodeProto) -> None:
        """Append a node that computes in float16."""
        if node.op_type == "Cast":
            next(each for each in node.attribute if each.name == "to").i = TensorProto.FLOAT16
        indices = range(1) if node.op_type == "Resize" else range(len(node.input))  # its scales are float32
        for index, name in enumerate(node.input):
            if index in indices and self.is_float(name):
                node.input[index] = self.half(name)
            else:
                self.widen(name)
        results = node.output[:1] if node.op_type in _FLOAT32_STATISTICS else node.output
        for index, name in enumerate(results):
            if self.is_float(name):
                node.output[index] = self.halves[name] = fresh_name(f"{name}_float16", self.taken)
                self.missing.add(name)
        self.nodes.append(node)

    def half(self, name: str) -> str:
        """Return a tensor in float16, which is made if it does not exist."""
        if name not in self.halves:
            self.halves[name] = half = fresh_name(f"{name}_float16", self.taken)
            if name in self.initializers:
                values = numpy_helper.to_array(self.initializers[name]).astype(np.float16)
                self.added.append(numpy_helper.from_array(values, half))
            else:
                self.nodes.append(helper.make_node("Cast", [name], [half], name=half, to=TensorProto.FLOAT16))
        return self.halves[name]

    def widen(self, name: str) -> None:
        """Make a tensor in float32, under its own name, if it exists in float16 only."""
        if name in self.missing:
            self.missing.discard(name)
            cast = helper.make_node("Cast", [self.halves[name]], [name], name=f"{name}_float32", to=TensorProto.FLOAT)
            self.nodes.append(cast)

    def finish(self) -> None:
        """Write nodes and constants back, without what nothing reads or writes any more."""
        read = {name for node in self.nodes for name in (*node.input, *_read_inside(node))}
        read |= {value.name for value in self.graph.output}
        tensors = [tensor for tensor in (*self.graph.initializer, *self.added) if tensor.name in read]
        shapes = [value for value in self.graph.value_info if value.name not in self.missing]
        _set_nodes(self.graph, [node for node in self.nodes if node.op_type != "Constant" or node.output[0] in read])
        for field, content in (("initializer", tensors), ("value_info", shapes)):
            copies = [type(each).FromString(each.SerializeToString()) for each in content]
            self.graph.ClearField(field)
            getattr(self.graph, field).extend(copies)


def _beyond(values: np.ndarray) -> float | None:
    """Return a value that float16 does not hold: a finite one that is too large, or the largest of too small ones."""
    sizes = np.abs(values[np.isfinite(values)].astype(np.float64))
    largest = float(sizes.max(initial=0))
    return largest if largest > LARGEST or 0 < largest < _LEAST else None


def _constant(node: NodeProto) -> dict[str, TensorProto]:
    """Return the float32 tensor of a Constant by its name. Empty for all other nodes."""
    if node.op_type != "Constant":
        return {}
    (attribute,) = node.attribute
    if attribute.name in {"value_float", "value_floats"}:
        values = np.asarray(helper.get_attribute_value(attribute), np.float32)
        return {node.output[0]: numpy_helper.from_array(values, node.output[0])}
    is_float = attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT
    return {node.output[0]: attribute.t} if is_float else {}


def _read_inside(node: NodeProto) -> Collection[str]:
    """Return the names that the bodies of a node read."""
    return [name for body in subgraphs(node) for name in tensor_names(body)]


def _set_nodes(graph: onnx.GraphProto, nodes: Collection[NodeProto]) -> None:
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    graph.ClearField("node")
    graph.node.extend(copies)
