"""QuantizeLinear and DequantizeLinear for activations, and the nodes that they replace: clamps and scalar products."""

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from converter.qdq.fragment import Fragment, Names
from passes.activations.placement import clamp_bounds, scale_factor
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.numerics.grid import ActivationGrid

__all__ = ["Activations", "absorbed_clamps", "free_products", "scalar_constants"]


class Activations:
    """Builds fragments that quantize and dequantize activations. Their readers read the last tensor of a fragment."""

    def __init__(self, model: Model, names: Names) -> None:
        self.model = model
        self.names = names
        self.codes: dict[str, str] = {}  # activation -> tensor that holds its codes
        self.zero_points: dict[str, str] = {}  # activation -> constant that holds the zero point of its codes

    def quantize(self, name: str, source: str, result: str | None = None) -> Fragment:
        """Quantize and dequantize an activation.

        Args:
            name: The activation, a key of `Model.activation_qparams`.
            source: Tensor that holds its values.
            result: Tensor to write, which no other node writes. The default is a new tensor.
        """
        grid: ActivationGrid = self.model.activation_qparams[name]
        fragment = Fragment(self.names)
        parameters = _parameters(fragment, name, grid)
        codes = fragment.node("QuantizeLinear", f"{name}_quantize", [source, *parameters], f"{name}_quantized")
        self.codes[name], self.zero_points[name] = codes, parameters[1]
        result = result or self.names.tensor(f"{name}_dequantized")
        fragment.node_into("DequantizeLinear", f"{name}_dequantize", [codes, *parameters], result)
        return fragment

    def take_codes(self, name: str, pixels: str, result: str | None = None) -> Fragment:
        """Dequantize an activation whose codes are the pixels of an image.

        Args:
            name: The activation, a key of `Model.activation_qparams`.
            pixels: Tensor of uint8.
            result: Tensor to write, which no other node writes. The default is a new tensor.
        """
        self.codes[name] = pixels
        fragment = Fragment(self.names)
        self.zero_points[name] = _dequantize(fragment, name, pixels, self.model.activation_qparams[name], result)
        return fragment

    def rescale(self, source: str, name: str, result: str | None = None) -> Fragment:
        """Dequantize tensor ``name``, a multiple of ``source``, from the codes of ``source``.

        Args:
            source: A key of `Model.activation_qparams`, quantized before.
            name: Another.
            result: Tensor to write, which no other node writes. The default is a new tensor.
        """
        self.codes[name] = self.codes[source]
        fragment = Fragment(self.names)
        grid = self.model.activation_qparams[name]
        self.zero_points[name] = _dequantize(fragment, name, self.codes[name], grid, result)
        return fragment

    def scalar(self, constant: TensorProto) -> Fragment:
        """Store a scalar constant as one code that represents it exactly."""
        rules, fragment = self.model.rules, Fragment(self.names)
        values = numpy_helper.to_array(constant).astype(np.float64)
        low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
        grid = ActivationGrid.of(low, high, signed=rules.signed, symmetric=rules.symmetric)
        codes = np.clip(np.rint(values / float(grid.scale)) + grid.zero_point, *grid.code_range)
        stored = fragment.constant(f"{constant.name}_codes", codes.astype(grid.dtype))
        _dequantize(fragment, constant.name, stored, grid)
        return fragment

    def by_channel(self, layer: Linear) -> Fragment:
        """Dequantize a layer's input with one scale per channel, for a layer that runs in float on a quantized input.

        onnxruntime (its WeightBiasQuantization) looks for a float weight of a layer between DequantizeLinear and
        QuantizeLinear. It rounds that weight to 8 bits with a single scale, and runs the layer on integers. It does not
        do so if the input is dequantized with a scale per channel. So this fragment has one scale per channel, all
        equal. A single channel cannot have one of its own, and is dequantized by Cast, Sub and Mul.
        """
        name = layer.input
        grid: ActivationGrid = self.model.activation_qparams[name]
        fragment = Fragment(self.names)
        if layer.inputs == 1:
            zero = fragment.constant(f"{name}_zero", np.asarray(grid.zero_point, np.float32))
            scale = fragment.constant(f"{name}_step", np.asarray(grid.scale, np.float32))
            floats = fragment.node("Cast", f"{name}_cast", [self.codes[name]], f"{name}_cast", to=TensorProto.FLOAT)
            centred = fragment.node("Sub", f"{name}_center", [floats, zero], f"{name}_centered")
            fragment.node("Mul", f"{name}_rescale", [centred, scale], f"{name}_floats")
            return fragment
        inputs = [
            self.codes[name],
            fragment.constant(f"{name}_scales", np.full(layer.inputs, grid.scale, np.float32)),
            fragment.constant(f"{name}_zero_points", np.full(layer.inputs, grid.zero_point, grid.dtype)),
        ]
        fragment.node("DequantizeLinear", f"{name}_dequantize_channels", inputs, f"{name}_floats", axis=1)
        return fragment


def _parameters(fragment: Fragment, name: str, grid: ActivationGrid) -> list[str]:
    scale = fragment.constant(f"{name}_scale", np.asarray(grid.scale, np.float32))
    return [scale, fragment.constant(f"{name}_zero_point", np.asarray(grid.zero_point, grid.dtype))]


def _dequantize(fragment: Fragment, name: str, codes: str, grid: ActivationGrid, result: str | None = None) -> str:
    """Add a DequantizeLinear. Return the constant that holds the zero point."""
    parameters = _parameters(fragment, name, grid)
    result = result or fragment.names.tensor(f"{name}_dequantized")
    fragment.node_into("DequantizeLinear", f"{name}_dequantize", [codes, *parameters], result)
    return parameters[1]


def scalar_constants(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    """Float initializers with one element, by name."""
    return {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.FLOAT and all(size == 1 for size in tensor.dims)
    }


def free_products(model: Model) -> dict[str, tuple[str, str]]:
    """Multiplications by a scalar that only change the scale: by node name, the tensors read and written."""
    products = {}
    for node in model.graph.nodes if model.rules.scalars else ():
        factor = scale_factor(node)
        source = next((str(tensor.name) for tensor in node.inputs if tensor.name in model.activation_qparams), None)
        result = str(node.outputs[0].name)
        if factor is not None and source is not None and result in model.activation_qparams:
            before, after = model.activation_qparams[source].scaled(factor), model.activation_qparams[result]
            if np.isclose(before.scale, after.scale, rtol=1e-6) and before.zero_point == after.zero_point:
                products[str(node.name)] = source, result
    return products


def absorbed_clamps(model: Model, graph: onnx.GraphProto, outputs: set[str]) -> tuple[set[str], dict[str, str]]:
    """Clamps that the quantizer behind them makes unnecessary: node names, and ``input tensor -> output tensor``."""
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
        bounds, grid = clamp_bounds(node), model.activation_qparams.get(node.outputs[0].name)
        source = node.inputs[0].name
        if bounds is None or grid is None or source in model.activation_qparams or source in outputs:
            continue
        if readers.get(source) != 1 or source not in produced:
            continue
        low, high = np.rint(np.asarray(bounds) / float(grid.scale)) + grid.zero_point  # codes of the bounds
        if low <= grid.code_range[0] and high >= grid.code_range[1]:  # saturation has the effect of the clamp
            clamps.add(node.name)
            result[source] = node.outputs[0].name
    return clamps, result
