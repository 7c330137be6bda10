"""Writer of quantized files: a Model with its codes becomes an ONNX model in QDQ form.

Operators that run on integers get QuantizeLinear and DequantizeLinear around them. A tensor ``t`` of
`Model.activation_qparams` becomes ``t -> t_quantize -> t_quantized -> t_dequantize -> t_dequantized``, and nodes that
read ``t`` now read ``t_dequantized``. A name that is already in use gets a number appended. Codes are written as the
passes made them. Only int32 biases are rounded here.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from importlib.metadata import version

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from converter.qdq.activations import Activations, absorbed_clamps, free_products, scalar_constants
from converter.qdq.biases import added_biases
from converter.qdq.dynamic import DynamicCodes, dynamic_codes, dynamic_matmul
from converter.qdq.dynamic_lstm import dynamic_lstm, is_dynamic_lstm
from converter.qdq.float_clamps import clamps_of_floats, max_and_min
from converter.qdq.floats import float_model, set_opsets
from converter.qdq.fragment import Fragment, Names
from converter.qdq.int32_biases import int32_bias, shared_bias
from converter.qdq.layer_forms import (
    bits_in_file,
    is_matmul_nbits,
    narrowest_block,
    runs_on_integers,
    weight_form,
)
from converter.qdq.leaky_relu import leaky_relus, leaky_sum
from converter.qdq.matmul_nbits import matmul_nbits
from converter.qdq.stored_weights import Tensors
from converter.qdq.tables import (
    CodeTable,
    code_tables,
    gathered_blocks,
    gathered_codes,
    gathered_rows,
    same_codes,
)
from converter.qdq.weights import (
    Storage,
    dequantized_weight,
    file_bits,
    smaller_storage,
)
from passes.activations.pixels import pixel_codes
from passes.errors import TargetError
from passes.ir.bodies import enclose
from passes.ir.linear import Linear
from passes.ir.model import Model, Quantized
from passes.ir.onnx_graph import fill_weights
from passes.ir.rules import needs_integers
from passes.ir.ties import tied_layers
from passes.numerics.grid import Floats, Grid

__all__ = ["emit"]

_ROUNDED_BY_RUNTIME = frozenset({"Conv", "ConvTranspose", "Gemm"})
_SAFE_CODE = 64  # onnxruntime never makes uint8 codes of smaller ones: they cannot saturate a kernel
_OPSET, _INT2_OPSET = 21, 25


def emit(model: Model, storage: Storage = "cast", *, smallest: bool = False) -> onnx.ModelProto:
    """Write a model as quantized ONNX.

    Args:
        model: The model. It does not change.
        storage: Storage form of the weights.
        smallest: Whether layers are stored as int8 where that takes fewer bytes. See `smaller_storage`.

    Raises:
        TargetError: The integer kernels cannot read a layer's grid, or a bias does not fit 32 bits.
    """
    layers = model.layers()
    tables = _code_tables(model, storage, smallest=smallest)
    replaced = {layers[name].weight for name in model.quantized}
    replaced |= {node.inputs[0].name for node in model.graph.nodes if node.name in tables}
    recurrent = model.recurrent_layers() if model.recurrent else {}
    replaced |= {weight.weight for name in model.recurrent for weight in recurrent[name].weights}
    proto = float_model(model.graph, exposed=True, without=replaced)
    _Writer(model, storage, Names(proto.graph), tables, smallest=smallest).run(proto.graph)
    fill_weights(proto.graph, model.graph, replaced)  # those that another node reads
    enclose(proto.graph)
    two_bits = {TensorProto.INT2, TensorProto.UINT2}
    written = Tensors.of(proto.graph)
    needs_int2 = any(tensor.data_type in two_bits for tensor in written.constants.values())
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    opsets[""] = max(opsets.get("", 0), _INT2_OPSET if needs_int2 else _OPSET)
    if any(node.domain == "com.microsoft" for node in written.nodes):
        opsets["com.microsoft"] = 1
    set_opsets(proto, opsets)
    proto.producer_name, proto.producer_version = "convert-onnx", version("convert-onnx")
    return proto


def _code_tables(model: Model, storage: Storage, *, smallest: bool) -> dict[str, CodeTable]:
    layers = {name: layer for name, layer in model.layers().items() if name in model.quantized}
    bits = {name: bits_in_file(model, layer, storage, smallest=smallest) for name, layer in layers.items()}
    packed = {name for name, layer in layers.items() if storage == "matmulnbits" and is_matmul_nbits(model, layer)}
    return code_tables(model, bits, frozenset(packed))


class _Writer:
    """Rewrites one GraphProto in place."""

    def __init__(
        self, model: Model, storage: Storage, names: Names, tables: Mapping[str, CodeTable], *, smallest: bool
    ) -> None:
        self.model = model
        self.smallest = smallest
        self.tables = tables
        self.storage = storage
        self.names = names
        self.layers = model.layers()
        self.activations = Activations(model, names)
        self.leaky_relus = leaky_relus(model)
        self.pixels = pixel_codes(model.graph, model.activation_qparams)
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.gathered: list[TensorProto] = []
        self.weights: dict[tuple[str, ...], str] = {}  # weight and form -> its floats, which all its layers read
        self.recurrent = model.recurrent_layers() if model.recurrent else {}
        self.readers: Counter[str] = Counter()  # of the codes of a weight by DynamicQuantizeLSTM
        self.dynamic: dict[str, DynamicCodes] = {}  # tensor -> its codes of one run
        self.ties = tied_layers(layer for layer in self.layers.values() if layer.name in model.quantized)
        self.bias_readers = Counter(layer.bias for layer in self.layers.values())
        self.shared_biases: dict[tuple[str, str | None, float], str] = {}  # of a weight, on inputs of a scale
        self.transposed = {node.inputs[0].name for node in model.graph.nodes if node.op == "Transpose"}

    def run(self, graph: onnx.GraphProto) -> None:
        outputs = {value.name for value in graph.output}
        self.gathered = gathered_codes(graph)
        clamps, absorbed = absorbed_clamps(self.model, graph, outputs)
        rescaled = free_products(self.model)
        scalars = scalar_constants(graph) if self.model.rules.scalars else {}
        biases, float_clamps = added_biases(self.model), clamps_of_floats(self.model)
        values = {tensor.name: tensor for tensor in graph.initializer} if biases else {}
        renamed: dict[str, str] = {}
        for value in (*graph.input, *graph.initializer):
            if value.name in self.model.activation_qparams:
                renamed[value.name] = self.add(self.activations.quantize(value.name, value.name))
        for node in graph.node:
            if node.name in clamps:
                continue
            if node.name in rescaled:
                source, result = rescaled[node.name]
                renamed[result] = self.add(
                    self.activations.rescale(source, result, result if result in outputs else None)
                )
                continue
            if self.is_copy(node, outputs):
                source = renamed.get(node.input[0], node.input[0])
                renamed[node.output[0]] = self.add(self.quantized(node.output[0], source))
                continue
            if node.name in float_clamps:
                node.input[:] = [renamed.get(name, name) for name in node.input]
                self.add(max_and_min(node, self.names))
                continue
            node.output[:] = [absorbed.get(name, name) for name in node.output]
            written = [name for name in node.output if name in self.model.activation_qparams]
            sources = {name: self.names.tensor(f"{name}_unquantized") for name in written if name in outputs}
            node.output[:] = [sources.get(name, name) for name in node.output]  # outputs of the graph keep their names
            rounded = [name for name in written if name not in self.pixels]
            exact_scalars = {
                name: self.add(self.activations.scalar(value))
                for name, value in scalars.items()
                if name in node.input and node.op_type in {"Add", "Mul"} and rounded
            }
            bias = biases.get(node.name)
            reshaped = {} if bias is None else {bias.name: self.reshaped(values[bias.name], bias.shape)}
            self.write(node, renamed | exact_scalars | reshaped)
            for name in written:
                output_name = name if name in outputs else None
                renamed[name] = self.add(self.quantized(name, sources.get(name, name), output_name))
        self.drop_unread(outputs)
        used = {name for node in self.nodes for name in node.input} | outputs
        initializers = [tensor for tensor in graph.initializer if tensor.name in used]
        constants = [tensor for tensor in self.initializers if tensor.name in used]
        present = {name for node in self.nodes for name in node.output} | outputs
        shapes = [value for value in graph.value_info if value.name in present]
        for field, content in (("node", self.nodes), ("initializer", initializers + constants), ("value_info", shapes)):
            graph.ClearField(field)
            getattr(graph, field).extend(content)

    def reshaped(self, constant: TensorProto, shape: tuple[int, ...]) -> str:
        """Add a constant in another shape. Return its name."""
        fragment = Fragment(self.names)
        name = fragment.constant(f"{constant.name}_axes", numpy_helper.to_array(constant).reshape(shape))
        self.initializers.extend(fragment.initializers)
        return name

    def quantized(self, name: str, source: str, result: str | None = None) -> Fragment:
        """Quantize and dequantize an activation, or only dequantize it if its codes are pixels."""
        if name in self.pixels:
            return self.activations.take_codes(name, self.pixels[name], result)
        return self.activations.quantize(name, source, result)

    def drop_unread(self, outputs: set[str]) -> None:
        """Drop each DequantizeLinear that nothing reads, and the floats of pixels that only integers read."""
        droppable = {"DequantizeLinear", *(("Cast", "Sub", "Mul") if self.pixels else ())}
        count = 0
        while count != len(self.nodes):
            count = len(self.nodes)
            read = {name for node in self.nodes for name in node.input} | outputs
            self.nodes = [node for node in self.nodes if node.op_type not in droppable or node.output[0] in read]

    def is_copy(self, node: NodeProto, outputs: set[str]) -> bool:
        """Whether a node is an Identity between floats and integers, or between integers of different widths.

        See `passes.activations.unrounded` and `passes.activations.widths`.
        """
        grids = self.model.activation_qparams
        if node.op_type != "Identity" or node.output[0] not in grids or node.output[0] in outputs:
            return False
        return node.input[0] not in grids or grids[node.input[0]].bits != grids[node.output[0]].bits

    def write(self, node: NodeProto, renamed: dict[str, str]) -> None:
        """Append a node. If it has a quantized weight, append the weight's nodes before it."""
        if node.name in self.leaky_relus:
            source = node.input[0]
            grid = self.model.activation_qparams[source]
            codes, zero = self.activations.codes[source], self.activations.zero_points[source]
            self.add(leaky_sum(node, codes, zero, grid, self.names))
            return
        layer = self.layers.get(node.name)
        quantized = self.model.quantized.get(node.name)
        reads = [renamed.get(name, name) for name in node.input]
        if layer is not None and self.reads_by_channel(layer):
            reads[0] = self.add(self.activations.by_channel(layer))
        if layer is None or quantized is None:
            node.input[:] = reads
            if node.name in self.model.recurrent:
                self.recurrent_layer(node)
            elif node.name in self.tables:
                self.gather(node, self.tables[node.name])
            else:
                self.nodes.append(node)
            return
        node.input[0] = reads[0]
        if runs_on_integers(self.model, layer):
            self.integer_layer(node, layer, quantized)
        elif self.storage == "matmulnbits" and is_matmul_nbits(self.model, layer):
            self.add(matmul_nbits(layer, quantized, node, self.names, narrowest_block(self.model, layer)))
        elif self.storage == "dynamic" and self.is_dynamic(layer, quantized):
            self.dynamic_layer(node, layer, quantized)
        else:
            self.require_weight_only(layer)
            form = weight_form(layer, quantized, self.storage, on_integers=False)
            node.input[1] = self.weight(form, layer, quantized)
            self.nodes.append(node)

    def is_dynamic(self, layer: Linear, quantized: Quantized) -> bool:
        """Whether the file quantizes the layer's input when it runs. A layer that is a table too reads floats."""
        tables = {table.layer.weight for table in self.tables.values()}
        return layer.op in {"Gemm", "MatMul"} and quantized.grid.per_channel and layer.weight not in tables

    def dynamic_layer(self, node: NodeProto, layer: Linear, quantized: Quantized) -> None:
        """Append a layer that multiplies integers, and the codes of its input unless another layer reads them too."""
        source = node.input[0]
        if source not in self.dynamic:
            fragment, self.dynamic[source] = dynamic_codes(source, self.names)
            self.add(fragment)
        bits = file_bits(quantized.grid.bits, self.storage, self.model.rules.narrowest)
        reader = self.ties[layer.name].index(layer.name) if layer.name in self.ties else 0
        self.add(dynamic_matmul(layer, quantized, node, self.dynamic[source], self.names, bits, reader))

    def recurrent_layer(self, node: NodeProto) -> None:
        """Append an LSTM, GRU or RNN whose weights have codes."""
        layer, quantized = self.recurrent[node.name], self.model.recurrent[node.name]
        if is_dynamic_lstm(layer, quantized, self.storage):
            self.add(dynamic_lstm(node, layer, quantized, self.names, self.readers, self.model.rules.narrowest))
            return
        for weight, part in zip(layer.weights, quantized.weights, strict=True):
            node.input[weight.operand] = self.weight(
                weight_form(weight, part, self.storage, on_integers=False), weight, part
            )
        self.nodes.append(node)

    def gather(self, node: NodeProto, table: CodeTable) -> None:
        """Append the nodes that read rows of a table from the codes of a layer."""
        packed = self.storage == "matmulnbits" and is_matmul_nbits(self.model, table.layer)
        self.add((gathered_blocks if packed else gathered_rows)(table, node, self.names))

    def weight(self, form: Callable[..., Fragment], layer: Linear, quantized: Quantized) -> str:
        """Add a weight in a storage form, unless a layer that shares it has added it. Return its floats."""
        key: tuple[str, ...] = layer.weight, form.__name__
        options: dict[str, int] = {}
        if form is dequantized_weight and layer.name in self.ties and np.abs(quantized.codes).max() > _SAFE_CODE:
            key, options = (*key, layer.name), {"reader": self.ties[layer.name].index(layer.name)}
        if key not in self.weights:
            if codes := same_codes(self.gathered, layer, quantized):
                self.names.shared[f"{layer.weight}_int8"] = codes
            if codes or layer.weight in {table.layer.weight for table in self.tables.values()}:
                options["by_output"] = True
            narrowest = self.model.rules.narrowest
            storage = self.storage
            if self.smallest:
                storage = smaller_storage(form, layer, quantized, storage, narrowest)
            self.weights[key] = self.add(form(layer, quantized, storage, self.names, narrowest, **options))
        return self.weights[key]

    def reads_by_channel(self, layer: Linear) -> bool:
        """Whether the layer runs in float on a quantized input and onnxruntime would quantize the layer."""
        rounded = layer.op in _ROUNDED_BY_RUNTIME and self.model.rules.reads_by_channel
        return rounded and layer.input in self.model.activation_qparams and not runs_on_integers(self.model, layer)

    def integer_layer(self, node: NodeProto, layer: Linear, quantized: Quantized) -> None:
        grid = quantized.grid
        if not grid.per_channel:
            hint = "give two_level = true as well, or leave activation_ranges out"
            raise TargetError(f"{layer.name}: no integer kernel reads scales of blocks; {hint}")
        self.require_weight_form(layer, grid)
        node.input[1] = self.weight(dequantized_weight, layer, quantized)
        bias = self.model.bias(layer)
        if bias is None and layer.output in self.transposed and layer.op == "Gemm":
            bias = np.zeros((1, layer.outputs), np.float32)  # without one, onnxruntime makes a float Gemm of the two
        if bias is not None and self.model.rules.bias == "int32":
            node.input[2:] = [self.int32_bias(layer, bias, grid)]
        self.nodes.append(node)

    def int32_bias(self, layer: Linear, bias: Floats, grid: Grid) -> str:
        """Add the bias of an integer layer. Return its floats."""
        inputs = self.model.activation_qparams[layer.input]
        if layer.name not in self.ties or self.bias_readers[layer.bias] < 2:
            return self.add(int32_bias(layer, bias, inputs, grid, self.names))
        key = layer.weight, layer.bias, float(inputs.scale)
        if key not in self.shared_biases:
            self.shared_biases[key] = self.add(shared_bias(layer, bias, inputs, grid, self.names))
        return self.shared_biases[key]

    def require_weight_form(self, layer: Linear, grid: Grid) -> None:
        """Require that the target's kernel can read the codes as int8 with a scale per output channel."""
        rules = self.model.rules
        if not grid.symmetric and not rules.weight_zero_points:
            raise TargetError(f"{layer.name}: integer kernels need symmetric weights; use symmetric = true")
        hint = "leave it out with an exclude pass"
        if "int8" not in rules.weight_types:
            wanted = " or ".join(sorted(rules.weight_types)) or "none"
            raise TargetError(f"{layer.name}: weights are written as int8, the target reads {wanted}; {hint}")
        wanted_axis = rules.channel_axis(layer.op, transposed=layer.transposed)
        if wanted_axis not in {None, layer.channel_axis}:
            raise TargetError(
                f"{layer.name}: the scales of its weight lie along axis {layer.channel_axis}, the target wants them "
                f"along axis {wanted_axis}; {hint}"
            )

    def require_weight_only(self, layer: Linear) -> None:
        if not self.model.rules.weight_only:
            reason = (
                self.model.rules.why_no_kernel(layer.op, len(layer.weight_shape), layer.groups)
                or "its input stays in float"
            )
            raise needs_integers(layer.name, reason)

    def add(self, fragment: Fragment) -> str:
        """Append a fragment's nodes and initializers. Return the tensor that it computes."""
        self.nodes.extend(fragment.nodes)
        self.initializers.extend(fragment.initializers)
        return fragment.result
