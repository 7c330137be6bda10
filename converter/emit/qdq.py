"""Model -> ONNX: quantized weights and QuantizeLinear/DequantizeLinear around the operators that run on integers.

A tensor ``t`` of `Model.ranges` becomes ``t -> t_quantize -> t_quantized -> t_dequantize -> t_dequantized``, and
whoever read ``t`` reads ``t_dequantized``; a name that the model uses already gets a number behind it. Codes come from
the passes as they are; nothing is rounded here but the int32 biases.
"""

from collections.abc import Mapping
from importlib.metadata import version

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from converter.emit.floats import float_model, set_opsets
from converter.emit.fragment import Fragment, Names
from converter.emit.matmul_nbits import matmul_nbits
from converter.emit.weights import Storage, dequantized_weight, file_bits, rescaled_weight
from passes.base import Model, Quantized
from passes.errors import TargetError
from passes.linear import Linear
from passes.numerics.grid import ActivationGrid
from passes.placement import clamp_bounds, scale_factor

__all__ = ["bits_in_file", "emit", "runs_on_integers"]

_ROUNDED_BY_RUNTIME = frozenset({"Conv", "ConvTranspose", "Gemm"})
_OPSET, _INT2_OPSET = 21, 25
_BIAS_LIMIT = 2**31 - 1


def emit(model: Model, storage: Storage = "cast") -> onnx.ModelProto:
    """The quantized ONNX model.

    Raises:
        TargetError: a layer's grid has no form the integer kernels can read, or its bias does not fit 32 bits.
    """
    proto = float_model(model.graph)
    _Writer(model, storage, Names(proto.graph)).run(proto.graph)
    needs_int2 = any(tensor.data_type == TensorProto.INT2 for tensor in proto.graph.initializer)
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    opsets[""] = max(opsets.get("", 0), _INT2_OPSET if needs_int2 else _OPSET)
    if any(node.domain == "com.microsoft" for node in proto.graph.node):
        opsets["com.microsoft"] = 1
    set_opsets(proto, opsets)
    proto.producer_name, proto.producer_version = "convert-onnx", version("convert-onnx")
    return proto


def runs_on_integers(model: Model, layer: Linear) -> bool:
    """Whether the layer's input is quantized and its operator has an integer kernel on the target."""
    return layer.name in model.quantized and model.reads_integers(layer)


def bits_in_file(model: Model, layer: Linear, storage: Storage) -> int:
    """Bits that a code of a quantized layer takes in the file, which has no type of 3, 5, 6 or 7 bits."""
    bits = file_bits(model.quantized[layer.name].grid.bits, storage, model.rules.narrowest)
    return max(bits, 4) if storage == "matmulnbits" and _is_matmul_nbits(model, layer) else bits


def _is_matmul_nbits(model: Model, layer: Linear) -> bool:
    return layer.op in {"Gemm", "MatMul"} and not runs_on_integers(model, layer)


class _Writer:
    """Rewrites one GraphProto in place."""

    def __init__(self, model: Model, storage: Storage, names: Names) -> None:
        self.model = model
        self.storage = storage
        self.names = names
        self.layers = model.layers()
        self.codes: dict[str, str] = {}  # of quantized tensors
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []

    def run(self, graph: onnx.GraphProto) -> None:
        outputs = {value.name for value in graph.output}
        clamps, absorbed = _absorbed(self.model, graph, outputs)
        rescaled = _rescaled(self.model)
        scalars = {
            tensor.name: tensor for tensor in graph.initializer if self.model.rules.scalars and _is_scalar(tensor)
        }
        renamed: dict[str, str] = {}
        for value in graph.input:
            if value.name in self.model.ranges:
                renamed[value.name] = self.quantize(value.name, value.name)
        for node in graph.node:
            if node.name in clamps:
                continue
            if node.name in rescaled:
                source, result = rescaled[node.name]
                renamed[result] = self.dequantize(result, self.codes[source])
                continue
            node.output[:] = [absorbed.get(name, name) for name in node.output]
            written = [name for name in node.output if name in self.model.ranges]
            sources = {name: self.names.tensor(f"{name}_unquantized") for name in written if name in outputs}
            node.output[:] = [sources.get(name, name) for name in node.output]  # outputs of the graph keep their names
            self.write(node, renamed | self.scalars(node, scalars))
            for name in written:
                renamed[name] = self.quantize(name, sources.get(name, name), name if name in outputs else None)
        read = {name for node in self.nodes for name in node.input} | outputs
        self.nodes = [node for node in self.nodes if node.op_type != "DequantizeLinear" or node.output[0] in read]
        used = {name for node in self.nodes for name in node.input} | outputs
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        constants = [tensor for tensor in self.initializers if tensor.name in used]
        present = {name for node in self.nodes for name in node.output} | outputs
        shapes = [value for value in graph.value_info if value.name in present]
        for field, content in (("node", self.nodes), ("initializer", kept + constants), ("value_info", shapes)):
            graph.ClearField(field)
            getattr(graph, field).extend(content)

    def write(self, node: NodeProto, renamed: dict[str, str]) -> None:
        """Append a node, and before it the form of its weight."""
        layer = self.layers.get(node.name)
        quantized = self.model.quantized.get(node.name)
        reads = [renamed.get(name, name) for name in node.input]
        if layer is not None and node.op_type in _ROUNDED_BY_RUNTIME and not runs_on_integers(self.model, layer):
            reads[0] = self.floats(layer, reads[0])
        if layer is None or quantized is None:
            node.input[:] = reads
            self.nodes.append(node)
            return
        node.input[0] = reads[0]
        if runs_on_integers(self.model, layer):
            self.integer_layer(node, layer, quantized)
        elif self.storage == "matmulnbits" and _is_matmul_nbits(self.model, layer):
            self.add(matmul_nbits(layer, quantized, node, self.names))
        else:
            self.require_weight_only(layer)
            dequantize = self.storage == "dequantize" and _one_axis(layer, quantized)
            form = dequantized_weight if dequantize else rescaled_weight
            weight = form(layer, quantized, self.storage, self.names, self.model.rules.narrowest)
            self.add(weight)
            node.input[1] = weight.result
            self.nodes.append(node)

    def integer_layer(self, node: NodeProto, layer: Linear, quantized: Quantized) -> None:
        grid = quantized.grid
        if grid.block is not None:
            hint = "use block only without activation_ranges"
            raise TargetError(f"{layer.name}: block scales have no integer kernel; {hint}")
        if not grid.symmetric:
            raise TargetError(f"{layer.name}: integer kernels need symmetric weights; use symmetric = true")
        weight = dequantized_weight(layer, quantized, self.storage, self.names, self.model.rules.narrowest)
        self.add(weight)
        node.input[1] = weight.result
        bias = self.model.bias(layer)
        if bias is not None and self.model.rules.bias == "int32":
            scale = (self.model.ranges[layer.input].scale * grid.scale.reshape(-1)).astype(np.float32)
            exact = bias.reshape(-1).astype(np.float64)
            codes = np.rint(
                np.divide(exact, scale, out=np.copysign(np.where(exact, np.inf, 0.0), exact), where=scale > 0)
            )
            if np.abs(codes).max(initial=0) > _BIAS_LIMIT:
                raise TargetError(
                    f"{layer.name}: bias {bias.flat[int(np.abs(codes).argmax())]:g} does not fit 32 bits at scale "
                    f"{scale[int(np.abs(codes).argmax())]:g}; this layer needs a larger weight scale"
                )
            name = layer.bias or f"{layer.name}.bias"
            fragment = Fragment(self.names)
            inputs = [
                fragment.constant(f"{name}_int32", codes.astype(np.int32)),
                fragment.constant(f"{name}_scale", scale),
                fragment.constant(f"{name}_zero_point", np.zeros(scale.shape, np.int32)),
            ]
            fragment.node("DequantizeLinear", f"{name}_dequantize", inputs, f"{name}_dequantized", axis=0)
            self.add(fragment)
            node.input[2] = fragment.result
        self.nodes.append(node)

    def require_weight_only(self, layer: Linear) -> None:
        if not self.model.rules.weight_only:
            reason = (
                self.model.rules.why_no_kernel(layer.op, len(layer.weight_shape), layer.groups)
                or "its input stays in float"
            )
            hint = "leave it out with an exclude pass, or use a recipe that quantizes activations"
            raise TargetError(f"{layer.name}: the target reads codes on integers only, and {reason}; {hint}")

    def quantize(self, name: str, source: str, result: str | None = None) -> str:
        """Append QuantizeLinear and DequantizeLinear for tensor ``name``; returns what its readers read.

        That is ``result``, a tensor of the graph that nothing else writes, or a new one.
        """
        grid: ActivationGrid = self.model.ranges[name]
        fragment = Fragment(self.names)
        scale = fragment.constant(f"{name}_scale", np.asarray(grid.scale, np.float32))
        zero_point = fragment.constant(f"{name}_zero_point", np.asarray(grid.zero_point, grid.dtype))
        codes = fragment.node("QuantizeLinear", f"{name}_quantize", [source, scale, zero_point], f"{name}_quantized")
        self.codes[name] = codes
        result = result or self.names.tensor(f"{name}_dequantized")
        fragment.node_into("DequantizeLinear", f"{name}_dequantize", [codes, scale, zero_point], result)
        self.add(fragment)
        return result

    def dequantize(self, name: str, codes: str) -> str:
        """Append a DequantizeLinear that makes tensor ``name`` of codes that are there."""
        self.codes[name] = codes
        return self.dequantized(name, codes, self.model.ranges[name])

    def scalars(self, node: NodeProto, constants: Mapping[str, TensorProto]) -> dict[str, str]:
        """What an operator between integers reads instead of scalar constants: codes that stand for them exactly."""
        ranges = self.model.ranges
        if node.op_type not in {"Add", "Mul"} or not any(name in ranges for name in node.output):
            return {}
        found = {}
        for name in node.input:
            if name in constants:
                value = float(numpy_helper.to_array(constants[name]).reshape(-1)[0])
                rules = self.model.rules
                grid = ActivationGrid.of(
                    min(value, 0.0), max(value, 0.0), signed=rules.signed, symmetric=rules.symmetric
                )
                fragment = Fragment(self.names)
                shape = tuple(constants[name].dims)
                code = np.rint(np.full(shape, value) / float(grid.scale)) + grid.zero_point
                codes = fragment.constant(f"{name}_codes", code.clip(*grid.code_range).astype(grid.dtype))
                self.add(fragment)
                found[name] = self.dequantized(name, codes, grid)
        return found

    def dequantized(self, name: str, codes: str, grid: ActivationGrid) -> str:
        fragment = Fragment(self.names)
        scale = fragment.constant(f"{name}_scale", np.asarray(grid.scale, np.float32))
        zero_point = fragment.constant(f"{name}_zero_point", np.asarray(grid.zero_point, grid.dtype))
        fragment.node("DequantizeLinear", f"{name}_dequantize", [codes, scale, zero_point], f"{name}_dequantized")
        self.add(fragment)
        return fragment.result

    def floats(self, layer: Linear, read: str) -> str:
        """What a layer that runs in float reads; ``read`` if its input is not quantized.

        onnxruntime rounds a float weight between DequantizeLinear and QuantizeLinear to 8 bits with one scale for all
        of it, and runs the layer on integers (its WeightBiasQuantization), but not where the input is dequantized with
        a scale per channel. So this one has as many scales as channels, all the same.
        """
        name = layer.input
        if name not in self.codes:
            return read
        grid: ActivationGrid = self.model.ranges[name]
        fragment = Fragment(self.names)
        inputs = [
            self.codes[name],
            fragment.constant(f"{name}_scales", np.full(layer.inputs, grid.scale, np.float32)),
            fragment.constant(f"{name}_zero_points", np.full(layer.inputs, grid.zero_point, grid.dtype)),
        ]
        fragment.node("DequantizeLinear", f"{name}_dequantize_channels", inputs, f"{name}_floats", axis=1)
        self.add(fragment)
        return fragment.result

    def add(self, fragment: Fragment) -> None:
        self.nodes.extend(fragment.nodes)
        self.initializers.extend(fragment.initializers)


def _one_axis(layer: Linear, quantized: Quantized) -> bool:
    """Whether the layer's scales lie along one axis of its stored weight, as DequantizeLinear wants them."""
    return quantized.grid.block is None and not (layer.op == "ConvTranspose" and layer.groups > 1)


def _is_scalar(tensor: TensorProto) -> bool:
    return tensor.data_type == TensorProto.FLOAT and all(size == 1 for size in tensor.dims)


def _rescaled(model: Model) -> dict[str, tuple[str, str]]:
    """Products with a scalar that are a matter of the scale: by node name, what is read and what is written."""
    found = {}
    for node in model.graph.nodes if model.rules.scalars else ():
        factor = scale_factor(node)
        source = next((str(tensor.name) for tensor in node.inputs if tensor.name in model.ranges), None)
        result = str(node.outputs[0].name)
        if factor is not None and source is not None and result in model.ranges:
            before, after = model.ranges[source].scaled(factor), model.ranges[result]
            if np.isclose(before.scale, after.scale, rtol=1e-6) and before.zero_point == after.zero_point:
                found[str(node.name)] = source, result
    return found


def _absorbed(model: Model, graph: onnx.GraphProto, outputs: set[str]) -> tuple[set[str], dict[str, str]]:
    """Clamps the quantizer after them makes needless: node names, and ``input tensor -> output tensor``."""
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    produced = {name for node in graph.node for name in node.output}
    clamps: set[str] = set()
    result: dict[str, str] = {}
    for node in model.graph.nodes:
        if node.op not in model.rules.absorbable:
            continue
        bounds, grid = clamp_bounds(node), model.ranges.get(node.outputs[0].name)
        source = node.inputs[0].name
        if bounds is None or grid is None or source in model.ranges or source in outputs:
            continue
        if readers.get(source) != 1 or source not in produced:
            continue
        first, last = grid.code_range
        low, high = (first - grid.zero_point) * float(grid.scale), (last - grid.zero_point) * float(grid.scale)
        if low >= bounds[0] and high <= bounds[1] * (1 + 1e-6):
            clamps.add(node.name)
            result[source] = node.outputs[0].name
    return clamps, result
