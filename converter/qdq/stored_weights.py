"""The stored weight of a linear node in any ONNX file, found backwards from the operator to its initializer.

    initializer [-> Cast] -> DequantizeLinear -> ...             "int4 cast", "int4 dequantize", "int8"
    low bits -> Cast -> BitwiseOr(signs) -> DequantizeLinear     "int3 packed" (`converter.qdq.three_bits`)
    codes -> Cast -> Mul(multiples) -> Reshape -> ...            the same in blocks (`passes.numerics.two_level`)
    initializer -> Cast [-> Sub] -> Mul -> [Reshape -> ...]      "int4 rescale"
    initializer -> QLinearConv, MatMulInteger, MatMulNBits ...   "int8", "matmulnbits"

The search looks at shapes and types only. It reads no weight values.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import onnx
from onnx import NodeProto, TensorProto

from passes.ir.linear import LINEAR_OPS, RECURRENT_OPS

__all__ = [
    "INTEGER_OPS",
    "Roles",
    "StoredWeight",
    "Tensors",
    "find_stored",
    "find_weight",
    "find_weights",
    "int_attribute",
    "layer_roles",
    "tensor_bytes",
    "type_bits",
    "type_name",
    "weight_roles",
]


@dataclass(frozen=True)
class Roles:
    """Input indices of an operator: its weight, the weight's scale and zero point, and the activation's zero point."""

    weight: int
    scale: int | None = None
    zero_point: int | None = None
    activation: int | None = None


_FLOAT_OPS = {op: Roles(1) for op in (*LINEAR_OPS, *RECURRENT_OPS, "FusedConv", "FusedGemm", "FusedMatMul")}
INTEGER_OPS: Mapping[str, Roles] = {
    "QLinearConv": Roles(3, 4, 5, 2),
    "QLinearMatMul": Roles(3, 4, 5, 2),
    "QGemm": Roles(3, 4, 5, 2),
    "ConvInteger": Roles(1, None, 3, 0),
    "MatMulInteger": Roles(1, None, 3, 0),
    "MatMulIntegerToFloat": Roles(1, 3, 5, 0),
    "DynamicQuantizeMatMul": Roles(1, 2, 3, None),
    "MatMulNBits": Roles(1, 2, 3),
    "DynamicQuantizeLSTM": Roles(1, 8, 9),
}
_OF_STATES = {**dict.fromkeys(RECURRENT_OPS, Roles(2)), "DynamicQuantizeLSTM": Roles(2, 10, 11)}
_RENAMED = {"float": "float32", "double": "float64"}
_BITS = {"float32": 32, "float64": 64, "float16": 16, "bfloat16": 16, "bool": 8, "complex64": 64, "complex128": 128}
_MOVES = frozenset({"Reshape", "Slice", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Pad", "Expand"})


def layer_roles(node: NodeProto) -> Roles | None:
    """Roles of the inputs of a linear operator, or of an LSTM, GRU or RNN with its weight W. None for another node."""
    return _FLOAT_OPS.get(node.op_type) or INTEGER_OPS.get(node.op_type)


def weight_roles(node: NodeProto) -> tuple[Roles, ...]:
    """Roles by weight: one for a linear operator, those of W and R for an LSTM, GRU or RNN, none for any other node."""
    both = layer_roles(node), _OF_STATES.get(node.op_type)
    return tuple(roles for roles in both if roles is not None)


def type_name(data_type: int) -> str:
    """Name of a tensor type as in NumPy: float32, int8, uint4."""
    name: str = TensorProto.DataType.Name(data_type).lower()
    return _RENAMED.get(name, name)


def type_bits(name: str) -> int:
    """Bits of one element of a type."""
    return _BITS.get(name) or int("".join(filter(str.isdigit, name.partition("e")[0])) or 8)


def tensor_bytes(tensor: TensorProto) -> int:
    """Bytes of a tensor's elements, packed as ONNX packs them."""
    if tensor.data_type == TensorProto.STRING:
        return sum(len(bytes(value)) for value in tensor.string_data)
    return -(-math.prod(int(size) for size in tensor.dims) * type_bits(type_name(tensor.data_type)) // 8)


@dataclass(frozen=True)
class Tensors:
    """Nodes of a graph and its subgraphs in order, the node that writes each tensor, and every constant by name."""

    nodes: tuple[NodeProto, ...]
    makers: Mapping[str, NodeProto]
    constants: Mapping[str, TensorProto]

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> "Tensors":
        """Collect from ``graph``. A Constant node, and an Identity of a constant, count as the constant itself."""
        graphs = list(_graphs(graph))
        nodes = [node for part in graphs for node in part.node if node.op_type != "Constant"]
        constants = {tensor.name: tensor for part in graphs for tensor in part.initializer}
        for node in (node for part in graphs for node in part.node if node.op_type == "Constant"):
            constants.update((node.output[0], entry.t) for entry in node.attribute if entry.HasField("t"))
        for node in (node for node in nodes if node.op_type == "Identity" and node.input[0] in constants):
            constants[node.output[0]] = constants[node.input[0]]
        return cls(tuple(nodes), {name: node for node in nodes for name in node.output if name}, constants)


@dataclass
class StoredWeight:
    """Where a weight's codes (or floats), scale and zero point are stored, and the tensors on the way to them.

    Attributes:
        codes: The codes or floats. None if the operand is not a constant.
        signs: Signs of 3-bit codes. Then `codes` are their low bits.
        multiples: Multiples of the channel's scale, for blocks of inputs.
        scale: The scale.
        zero_point: The zero point.
        reshaped: Rank of the weight after its blocks are reshaped back.
        path: Tensors from the operand to the codes.
        operators: Nodes from the operand to the codes.
    """

    codes: TensorProto | None = None
    signs: TensorProto | None = None
    multiples: TensorProto | None = None
    scale: TensorProto | None = None
    zero_point: TensorProto | None = None
    reshaped: int | None = None
    path: list[str] = field(default_factory=list)
    operators: list[NodeProto] = field(default_factory=list)

    @property
    def type(self) -> str:
        """Type of the codes: int4, uint8, float32."""
        if self.signs is not None:
            return "int3"
        return type_name(self.codes.data_type) if self.codes is not None else "none"

    @property
    def is_float(self) -> bool:
        """Whether the file holds floats instead of codes."""
        return "float" in self.type

    @property
    def bits(self) -> int:
        """Bits of one stored element."""
        return type_bits(self.type)

    @property
    def rank(self) -> int:
        """Number of axes of the weight as the operator reads it."""
        return self.reshaped or (len(self.codes.dims) if self.codes is not None else 0)

    @property
    def bytes(self) -> int:
        """Bytes of codes, signs, multiples, scales and zero points together. 0 if the operand is not a constant."""
        parts = () if self.codes is None else (self.codes, self.signs, self.multiples, self.scale, self.zero_point)
        return sum(tensor_bytes(tensor) for tensor in parts if tensor is not None)

    @property
    def read_type(self) -> str:
        """Type of the floats that the operator reads. Activations have the same type if they are floats."""
        for node in self.operators:  # in order from the operator to the initializer
            if node.op_type == "Cast":
                return type_name(next(entry.i for entry in node.attribute if entry.name == "to"))
            if node.op_type in {"DequantizeLinear", "MatMulNBits"} and self.scale is not None:
                return type_name(self.scale.data_type)
        return self.type if self.is_float else "float32"

    @property
    def storage(self) -> str:
        """Storage form: "float32", "int8", "int4 cast", "int3 packed", "int4 dequantize" or "int4 rescale"."""
        ops = {node.op_type for node in self.operators}
        if self.codes is None:
            return "none"
        if "QuantizeLinear" in ops:
            return f"{self.type} quantize"
        if self.is_float:
            return self.type
        if "DequantizeLinear" not in ops:
            return f"{self.type} rescale" if "Mul" in ops else self.type
        if self.bits >= 8:
            return self.type
        if self.signs is not None:
            return f"{self.type} packed"
        return f"{self.type} cast" if "Cast" in ops else f"{self.type} dequantize"

    @property
    def granularity(self) -> str:
        """What shares a scale: "tensor", "channel", "block 32". Empty for plain floats."""
        if self.codes is None or (self.scale is None and self.zero_point is None):
            return ""
        shared = self.scale if self.scale is not None else self.zero_point
        assert shared is not None
        if self.multiples is not None:
            return f"block {math.prod(self.codes.dims) // math.prod(self.multiples.dims)}"
        count, codes = math.prod(shared.dims), math.prod(self.codes.dims)
        if count <= 1:
            return "tensor"
        for node in self.operators:
            if block_size := int_attribute(node, "block_size", 0):
                return f"block {block_size}"
        is_reshaped = any(node.op_type == "Reshape" for node in self.operators)
        blocked = is_reshaped and "rescale" in self.storage and sum(size > 1 for size in shared.dims) > 1
        return f"block {codes // count}" if blocked else "channel"


def find_weights(node: NodeProto, tensors: Tensors) -> tuple[StoredWeight, ...]:
    """The stored weights of a node: one of a linear node, W and R of an LSTM, GRU or RNN."""
    return tuple(_stored(node, roles, tensors) for roles in weight_roles(node))


def find_weight(node: NodeProto, tensors: Tensors) -> StoredWeight:
    """The stored weight of a linear node, or the W of an LSTM, GRU or RNN.

    For MatMul and Gemm, it is the operand that is a constant.
    """
    return find_weights(node, tensors)[0]


def _stored(node: NodeProto, roles: Roles, tensors: Tensors) -> StoredWeight:
    stored = find_stored(_input(node, roles.weight), tensors)
    if stored.codes is None and node.op_type in {"MatMul", "Gemm", "FusedMatMul", "FusedGemm"}:
        other = find_stored(_input(node, 0), tensors)
        stored = other if other.codes is not None else stored
    if roles.scale is not None:
        stored.scale = tensors.constants.get(_input(node, roles.scale))
    if roles.zero_point is not None:
        stored.zero_point = tensors.constants.get(_input(node, roles.zero_point))
    if node.op_type == "MatMulNBits":
        stored.operators.append(node)
    if node.op_type in {"MatMulInteger", "ConvInteger"}:
        stored.scale = _scale_behind(node, tensors)
    return stored


def _scale_behind(node: NodeProto, tensors: Tensors) -> TensorProto | None:
    """The weight's scale behind sums of integers: MatMulInteger -> Cast -> Mul(scale of the input * scale)."""
    cast = next((each for each in tensors.nodes if each.op_type == "Cast" and node.output[0] in each.input), None)
    if cast is None:
        return None
    scaled = next((each for each in tensors.nodes if each.op_type == "Mul" and cast.output[0] in each.input), None)
    factors = [tensors.makers.get(name) for name in (scaled.input if scaled is not None else ())]
    names = [name for factor in factors if factor is not None and factor.op_type == "Mul" for name in factor.input]
    return next((tensors.constants[name] for name in names if name in tensors.constants), None)


def find_stored(name: str, tensors: Tensors) -> StoredWeight:
    """Follow a tensor backwards to the initializer that it is computed from."""
    stored = StoredWeight()
    while name and name not in stored.path:
        stored.path.append(name)
        if name in tensors.constants:
            stored.codes = tensors.constants[name]
            return stored
        node = tensors.makers.get(name)
        if node is None:
            return stored
        name = _step_back(node, tensors, stored)
    return stored


def _step_back(node: NodeProto, tensors: Tensors, stored: StoredWeight) -> str:
    """Record a node in ``stored``. Return the tensor to follow next, or "" if the node does not prepare a weight."""
    first, second = _input(node, 0), _input(node, 1)
    if node.op_type in {"DequantizeLinear", "QuantizeLinear"}:
        stored.operators.append(node)
        stored.scale = stored.scale if stored.scale is not None else tensors.constants.get(second)
        zero_point = tensors.constants.get(_input(node, 2))
        stored.zero_point = stored.zero_point if stored.zero_point is not None else zero_point
        return first
    if node.op_type in {"Mul", "Sub"}:
        data, factor = (second, first) if node.op_type == "Mul" and first in tensors.constants else (first, second)
        constant = tensors.constants.get(factor)
        if constant is None and node.op_type == "Mul":
            stored.operators.append(node)
            stored.multiples = _cast_constant(second, tensors)
            return first if stored.multiples is not None else ""
        if constant is None:
            return ""
        stored.operators.append(node)
        if node.op_type == "Mul" and stored.scale is None:
            stored.scale = constant
        elif node.op_type == "Sub" and stored.zero_point is None:
            stored.zero_point = constant
        return data
    if node.op_type == "BitwiseOr":
        stored.operators.append(node)
        stored.signs = _signs(second, tensors)
        return first if stored.signs is not None else ""
    if node.op_type in {"Cast", "Clip"} or node.op_type in _MOVES:
        stored.operators.append(node)
        shape = tensors.constants.get(second)
        if node.op_type == "Reshape" and shape is not None and stored.reshaped is None:
            stored.reshaped = math.prod(shape.dims)
        return first
    return ""


def _cast_constant(name: str, tensors: Tensors) -> TensorProto | None:
    """The constant that a tensor is cast from. None if there is no such constant."""
    maker = tensors.makers.get(name)
    return tensors.constants.get(maker.input[0]) if maker is not None and maker.op_type == "Cast" else None


def _signs(name: str, tensors: Tensors) -> TensorProto | None:
    """The constant whose signs a Gather distributes over the codes. None if there is no such constant."""
    steps = {"Reshape": 0, "Gather": 1, "Cast": 0}
    while name in tensors.makers and tensors.makers[name].op_type in steps:
        name = _input(tensors.makers[name], steps[tensors.makers[name].op_type])
    return tensors.constants.get(name)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for below in [attribute.g, *attribute.graphs]:
                yield from _graphs(below)


def int_attribute(node: NodeProto, name: str, default: int) -> int:
    """The value of an integer attribute. ``default`` if the node does not have it."""
    return next((int(entry.i) for entry in node.attribute if entry.name == name), default)


def _input(node: NodeProto, index: int) -> str:
    return node.input[index] if index < len(node.input) else ""
