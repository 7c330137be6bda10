"""The model that passes change: a float graph and the state of its quantization."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from passes.errors import QuantizationError
from passes.ir.existing_qparams import ExistingQparams
from passes.ir.large_constants import LARGE, ComputedValues, Values, assign, loaded
from passes.ir.linear import Linear, linear_layers
from passes.ir.onnx_graph import choices_with_layers
from passes.ir.recurrent import Recurrent, recurrent_layers
from passes.ir.rules import Rules
from passes.ir.surgery import fresh_name, tensor_names
from passes.ir.tables import Table, find_tables, lone_tables
from passes.numerics.grid import ActivationGrid, Codes, Floats, Grid
from passes.numerics.sparsity import Pruned

__all__ = ["UNREACHED", "FloatWeight", "Model", "Quantized", "QuantizedRecurrent"]

UNREACHED = "no value reaches it on the calibration data"  # why a layer stays in float


@dataclass(frozen=True)
class Quantized:
    """The quantized weight of a layer.

    Attributes:
        codes: Codes that the file will contain, ``[g, o, k]``.
        grid: Grid of the codes.
        sqnr_db: SQNR in dB that the pass measured.
        pruned: Weights that were removed, and stay zero. None: there are none.
    """

    codes: Codes
    grid: Grid
    sqnr_db: float
    pruned: Pruned | None = None


@dataclass(frozen=True)
class FloatWeight:
    """The weight and bias of a layer before it was quantized.

    Attributes:
        layer: The layer.
        stored: Weight as the node stores it. It may be read when it is needed.
        bias: Bias ``[g, o]``, or None.
    """

    layer: Linear
    stored: Values
    bias: Floats | None

    def matrix(self) -> Floats:
        """Return the weight as ``[g, o, k]``."""
        return self.layer.matrix(np.asarray(loaded(self.stored), np.float32))


@dataclass(frozen=True)
class QuantizedRecurrent:
    """The quantized weights W and R of an LSTM, GRU or RNN.

    Attributes:
        weights: Codes and grids of both.
        floats: Both before they were quantized.
    """

    weights: tuple[Quantized, Quantized]
    floats: tuple[FloatWeight, FloatWeight]


@dataclass
class Model:
    """A graph that always runs in float, and the state of its quantization.

    Attributes:
        graph: The graph. The weight of a quantized layer has the dequantized values.
        rules: What the target accepts.
        quantized: Quantized weights, by layer name.
        recurrent: Quantized weights of LSTM, GRU and RNN, by node name.
        activation_qparams: Grid (scale and zero point) of every activation that will be quantized, by tensor name.
        float_reasons: Why a layer stays in float, by layer name.
        float_branches: Names of If nodes whose branches stay in float.
        float_tables: Names of Gathers whose embedding tables stay in float.
        float_activations: Why a node runs in float although its weight, if it has one, is quantized, by node name.
        float_weights: Weight and bias of a layer before it was quantized, by layer name.
        selected: Layers that selectors of `LayerPass.layer_bits` by operator and by place matched when layers could be
            excluded, by selector. Later passes may rewrite the nodes that the selectors name.
        existing_qparams: Quantization parameters of the file from which the model was read.
    """

    graph: gs.Graph
    rules: Rules
    quantized: dict[str, Quantized] = field(default_factory=dict)
    recurrent: dict[str, QuantizedRecurrent] = field(default_factory=dict)
    activation_qparams: dict[str, ActivationGrid] = field(default_factory=dict)
    float_reasons: dict[str, str] = field(default_factory=dict)
    float_branches: set[str] = field(default_factory=set)
    float_tables: set[str] = field(default_factory=set)
    float_activations: dict[str, str] = field(default_factory=dict)
    float_weights: dict[str, FloatWeight] = field(default_factory=dict)
    selected: dict[str, frozenset[str]] = field(default_factory=dict)
    existing_qparams: ExistingQparams = field(default_factory=ExistingQparams)

    def require_source_codes(self) -> None:
        """Require that the source model is quantized, unless all layers are in branches, which are models of their own.

        Raises:
            QuantizationError: It is not.
        """
        if self.layers() or not choices_with_layers(self.graph):
            self.existing_qparams.require()

    def layers(self) -> dict[str, Linear]:
        """Return all linear layers by name, in the graph's order."""
        return linear_layers(self.graph)

    def recurrent_layers(self) -> dict[str, Recurrent]:
        """Return the LSTM, GRU and RNN nodes whose weights can be quantized, by name, in the graph's order."""
        return recurrent_layers(self.graph)

    def layers_to_quantize(self) -> dict[str, Linear]:
        """Return the layers that no pass has left in float."""
        return {name: layer for name, layer in self.layers().items() if name not in self.float_reasons}

    def reads_integers(self, layer: Linear) -> bool:
        """Return whether the layer runs on the target's integer kernel once its weight is quantized."""
        kernel = self.rules.why_no_kernel(layer.op, len(layer.weight_shape), layer.groups) is None
        return kernel and layer.input in self.activation_qparams and layer.name not in self.float_activations

    def tables(self) -> dict[str, Table]:
        """Return the embedding tables that layers also read as their weight, by the name of the layer.

        Their values are compared with the float weights, so a pass that changes a weight has parted the two.
        """
        if not self.rules.gathers_codes:
            return {}
        layers = self.layers_to_quantize()
        nodes = {node.name: node for node in self.graph.nodes}
        kept = {name: self.float_weights[name].stored for name in layers if name in self.float_weights}
        return find_tables(self.graph, layers, {name: kept.get(name, nodes[name].inputs[1]._values) for name in layers})

    def lone_tables(self) -> list[gs.Constant]:
        """Return the embedding tables that no layer has as its weight."""
        layers = self.layers()
        nodes = {node.name: node for node in self.graph.nodes}
        weights = {name: nodes[name].inputs[layer.operand]._values for name, layer in layers.items()}
        shared = find_tables(self.graph, layers, weights).values()
        return lone_tables(self.graph, {reader for table in shared for reader in table.readers})

    def node(self, name: str) -> gs.Node:
        """Return the node of a name.

        Raises:
            QuantizationError: There is no node of that name.
        """
        for node in self.graph.nodes:
            if node.name == name:
                return node
        raise QuantizationError(f"no node is named {name}")

    def weight(self, layer: Linear) -> Floats:
        """Return the layer's current weight as ``[g, o, k]``.

        Raises:
            QuantizationError: The graph has no such layer.
        """
        return layer.matrix(np.asarray(self.node(layer.name).inputs[layer.operand].values, np.float32))

    def bias(self, layer: Linear) -> Floats | None:
        """Return the layer's current bias as ``[g, o]``, or None.

        Raises:
            QuantizationError: The graph has no such layer.
        """
        if layer.bias is None:
            return None
        stored = np.asarray(self.node(layer.name).inputs[2].values, np.float32)
        groups, outputs, _ = layer.matrix_shape
        return np.broadcast_to(stored.reshape(-1), (groups * outputs,)).reshape(groups, outputs).copy()

    def write(self, layer: Linear, weight: Floats, bias: Floats | None) -> None:
        """Give the layer a new weight and bias, in new arrays. Other layers keep theirs.

        A layer without a bias gets one, except for MatMul, which has none. A layer that shared what changes gets its
        own.

        Args:
            layer: The layer.
            weight: New weight, ``[g, o, k]``.
            bias: New bias, ``[g, o]``. None leaves the bias unchanged.

        Raises:
            QuantizationError: The graph has no such layer.
        """
        self._write(layer, np.ascontiguousarray(layer.stored(weight.astype(np.float32))), bias)

    def _write(self, layer: Linear, stored: Values, bias: Floats | None) -> None:
        node = self.node(layer.name)
        self._assign(node, layer.operand, stored, f"{layer.name}.weight")
        if bias is None:
            return
        flat = np.ascontiguousarray(bias.reshape(-1).astype(np.float32))
        if layer.bias is not None:
            self._assign(node, 2, flat, f"{layer.name}.bias")
        elif layer.op != "MatMul":
            while len(node.inputs) > 2:
                node.inputs.pop()
            name = fresh_name(f"{layer.name}.bias", tensor_names(self.graph))
            node.inputs.append(gs.Constant(name, flat))

    def write_tied(self, layers: Sequence[Linear], weight: Floats, biases: Sequence[Floats | None]) -> None:
        """Give layers that share a weight a new one, and each a bias.

        Args:
            layers: All layers that read the weight. Only for one alone, others may read it and keep theirs.
            weight: New weight, ``[g, o, k]``.
            biases: New bias of each layer, ``[g, o]``. None leaves the bias unchanged.

        Raises:
            QuantizationError: The graph has no such layer.
        """
        self.write_stored(layers, np.ascontiguousarray(layers[0].stored(weight.astype(np.float32))), biases)

    def write_codes(self, layers: Sequence[Linear], codes: Codes, grid: Grid, biases: Sequence[Floats | None]) -> None:
        """Give layers that share a weight the values of codes. Large ones are computed when they are read.

        Args:
            layers, biases: As in `write_tied`.
            codes: Codes, ``[g, o, k]``.
            grid: Their grid.

        Raises:
            QuantizationError: The graph has no such layer.
        """
        layer = layers[0]

        def values() -> Floats:
            return np.ascontiguousarray(layer.stored(grid.values(codes).astype(np.float32)))

        computed = ComputedValues(values, layer.weight_shape, np.dtype(np.float32))
        self.write_stored(layers, computed if computed.nbytes >= LARGE else values(), biases)

    def write_stored(self, layers: Sequence[Linear], stored: Values, biases: Sequence[Floats | None]) -> None:
        """Give layers that share a weight a new one as their nodes store it, and each a bias. See `write_tied`.

        Raises:
            QuantizationError: The graph has no such layer.
        """
        if len(layers) > 1:
            assign(self.node(layers[0].name).inputs[layers[0].operand], stored)
        for layer, bias in zip(layers, biases, strict=True):
            self._write(layer, stored, bias)

    def float_weight(self, layer: Linear) -> FloatWeight:
        """Return the layer's current weight and bias, before it is quantized.

        Raises:
            QuantizationError: The graph has no such layer.
        """
        return FloatWeight(layer, self.node(layer.name).inputs[layer.operand]._values, self.bias(layer))

    def untie(self, names: Sequence[str]) -> None:
        """Give layers that share a weight with others a copy that they share.

        Raises:
            QuantizationError: The graph has no such layer.
        """
        nodes = [self.node(name) for name in names]
        copy = gs.Constant(fresh_name(f"{names[0]}.weight", tensor_names(self.graph)), nodes[0].inputs[1].values)
        for node in nodes:
            node.inputs[1] = copy

    def untie_bias(self, name: str) -> None:
        """Give a layer a bias of its own, if it has one.

        Raises:
            QuantizationError: The graph has no such layer.
        """
        node = self.node(name)
        shared = node.inputs[2] if len(node.inputs) > 2 else None
        if isinstance(shared, gs.Constant) and len(shared.outputs) > 1:
            node.inputs[2] = gs.Constant(fresh_name(f"{name}.bias", tensor_names(self.graph)), shared.values)

    def _assign(self, node: gs.Node, index: int, values: Values, name: str) -> None:
        constant = node.inputs[index]
        if len(constant.outputs) == 1:
            assign(constant, values)
        elif constant._values is not values and not np.array_equal(constant.values, loaded(values)):
            own = gs.Constant(fresh_name(name, tensor_names(self.graph)), values)
            assign(own, values)
            node.inputs[index] = own
