"""The model that passes work on: a float graph and what is known of its quantization."""

from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from passes.errors import QuantizationError
from passes.ir.existing_qparams import ExistingQparams
from passes.ir.linear import Linear, linear_layers
from passes.ir.rules import Rules
from passes.ir.surgery import fresh_name, tensor_names
from passes.numerics.grid import ActivationGrid, Codes, Floats, Grid

__all__ = ["Model", "Quantized"]


@dataclass(frozen=True)
class Quantized:
    """A layer's weight on its grid: codes ``[g, o, k]`` are what the file will hold."""

    codes: Codes
    grid: Grid
    sqnr_db: float


@dataclass
class Model:
    """The graph, always runnable in float, and what is known of its quantization.

    Attributes:
        graph: a quantized layer's weight holds its dequantized values.
        rules: what the target accepts.
        quantized: by layer name.
        activation_qparams: scale and zero point (grid) of every activation tensor that will be quantized, by tensor name.
        float_reasons: why a layer stays in float, by layer name.
        float_activations: why a layer reads floats although its weight is quantized, by layer name.
        float_weights: weight ``[g, o, k]`` and bias ``[g, o]`` a layer had before it was quantized, by layer name.
        existing_qparams: what the file that the model was read from was quantized with.
    """

    graph: gs.Graph
    rules: Rules
    quantized: dict[str, Quantized] = field(default_factory=dict)
    activation_qparams: dict[str, ActivationGrid] = field(default_factory=dict)
    float_reasons: dict[str, str] = field(default_factory=dict)
    float_activations: dict[str, str] = field(default_factory=dict)
    float_weights: dict[str, tuple[Floats, Floats | None]] = field(default_factory=dict)
    existing_qparams: ExistingQparams = field(default_factory=ExistingQparams)

    def layers(self) -> dict[str, Linear]:
        """Every linear layer by name, in the graph's order."""
        return linear_layers(self.graph)

    def reads_integers(self, layer: Linear) -> bool:
        """Whether the layer, once its weight is quantized, runs on the target's integer kernel."""
        kernel = self.rules.why_no_kernel(layer.op, len(layer.weight_shape), layer.groups) is None
        return kernel and layer.input in self.activation_qparams and layer.name not in self.float_activations

    def node(self, name: str) -> gs.Node:
        """The node of that name.

        Raises:
            QuantizationError: there is none.
        """
        for node in self.graph.nodes:
            if node.name == name:
                return node
        raise QuantizationError(f"no node is named {name}")

    def weight(self, layer: Linear) -> Floats:
        """The layer's present weight as ``[g, o, k]``."""
        return layer.matrix(np.asarray(self.node(layer.name).inputs[1].values, np.float32))

    def bias(self, layer: Linear) -> Floats | None:
        """The layer's bias as ``[g, o]``, or None."""
        if layer.bias is None:
            return None
        stored = np.asarray(self.node(layer.name).inputs[2].values, np.float32)
        groups, outputs, _ = layer.matrix_shape
        return np.broadcast_to(stored.reshape(-1), (groups * outputs,)).reshape(groups, outputs).copy()

    def write(self, layer: Linear, weight: Floats, bias: Floats | None) -> None:
        """Give the layer a new weight ``[g, o, k]`` and bias ``[g, o]`` (fresh arrays; a missing bias is created)."""
        node = self.node(layer.name)
        node.inputs[1].values = np.ascontiguousarray(layer.stored(weight.astype(np.float32)))
        if bias is None:
            return
        flat = np.ascontiguousarray(bias.reshape(-1).astype(np.float32))
        if layer.bias is not None:
            node.inputs[2].values = flat
        elif layer.op != "MatMul":
            while len(node.inputs) > 2:
                node.inputs.pop()
            name = fresh_name(f"{layer.name}.bias", tensor_names(self.graph))
            node.inputs.append(gs.Constant(name, flat))
