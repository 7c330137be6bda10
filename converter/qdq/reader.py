"""Reader of quantized files in QDQ form, of any origin: gives the float model, and the grids that it was quantized
with.

    x -> QuantizeLinear [-> Clip] -> DequantizeLinear        an activation: readers read x, and its grid is recorded
    uint8 image -> DequantizeLinear                          the same: x is (pixel - zero point) * scale
    x -> Quantize, DequantizeLinear -> the same, other bits   a copy of x, on a grid of its own
    x -> QuantizeLinear -> DequantizeLinear, other scale      a multiple of x, which a Mul computes
    codes -> [Cast | three bits ->] DequantizeLinear         a weight, a bias or another constant: its values
    floats -> QuantizeLinear [-> Clip] -> DequantizeLinear   the same, as training with fake quantization exports it
    codes -> Cast -> [Sub ->] Mul                            a weight whose codes only are in the file

Layers and tensors keep their names. Everything that was added for quantization is removed. Where saturation had an
effect, a Clip of floats replaces it (`converter.qdq.clamps`). The same holds for a Clip that narrows the codes of an
activation (7 bits of 8).
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper

from converter.qdq.clamps import with_clamps
from converter.qdq.int32_biases import rounded_floats
from converter.qdq.leaky_relu import sums_to_leaky_relus
from converter.qdq.read_grids import ACTIVATIONS, ADVICE, grid_of, required_constant, same_grid, typed_grid
from converter.qdq.stored_weights import (
    Roles,
    StoredWeight,
    Tensors,
    find_stored,
    find_weights,
    type_name,
    weight_roles,
)
from converter.qdq.weight_reader import FoundConstant, found_constant, weight_codes
from passes.errors import ModelError
from passes.ir.bodies import enclose, expose
from passes.ir.existing_qparams import ExistingCodes, ExistingQparams
from passes.numerics.grid import ActivationGrid, Floats

__all__ = ["read_qdq", "requantized"]

_FLOAT = TensorProto.FLOAT
_MOVES = frozenset({"Concat", "Gather", "Identity", "Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
_ENDINGS = ("_DequantizeLinear_Output", "_dequantized", "_rescaled", "_quantized")


def read_qdq(model: onnx.ModelProto) -> tuple[onnx.ModelProto, ExistingQparams]:
    """Read a quantized model. A float model is returned as it is, with no grids.

    Args:
        model: Checked and at opset 21, as `converter.model_io.load` returns it. It does not change.

    Returns:
        The float model, and the codes and grids of the file.

    Raises:
        ModelError: Activations have other than 8 or 16 bits or several scales, operators compute on codes, or scales
            are not constants. The message names the tensor.
    """
    model = sums_to_leaky_relus(model)
    tensors = Tensors.of(model.graph)
    layers = [stored for node in model.graph.node for stored in find_weights(node, tensors)]
    if not any(stored.codes is not None and not stored.is_float for stored in layers) and not any(
        node.op_type in {"QuantizeLinear", "DequantizeLinear"} for node in model.graph.node
    ):
        return model, ExistingQparams()
    result = onnx.ModelProto()
    result.CopyFrom(model)
    expose(result.graph.node)
    found = _Reader(result.graph, tensors).run()
    enclose(result.graph)
    return result, found


def requantized(found: ExistingQparams) -> str:
    """The warning for a model that was quantized before and is quantized again."""
    return (
        f"the model is quantized already ({found}): its dequantized values are quantized again, and accuracy is "
        "measured against them; recipe keep writes the codes it has, and the float model it was made from gives better"
    )


class _Reader:
    """Rewrites one GraphProto in place."""

    def __init__(self, graph: onnx.GraphProto, tensors: Tensors) -> None:
        self.graph, self.tensors = graph, tensors
        self.outputs = {value.name for value in graph.output}
        self.images = {value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.UINT8}
        self.taken = {*tensors.constants, *tensors.makers, *(value.name for value in graph.input), *self.outputs}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in tensors.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.read: set[str] = set()
        self.new_names: set[str] = set()  # names of new tensors
        self.initializers: list[TensorProto] = []
        self.originals: dict[str, str] = {}  # dequantized tensor -> tensor that it was quantized from
        self.weights: dict[str, ExistingCodes] = {}
        self.shared: dict[tuple[str, str], str] = {}  # codes and scale -> floats, for all layers that read them
        self.ranges: dict[str, ActivationGrid] = {}
        self.unkept: dict[str, str] = {}
        self.float_readers: dict[str, int] = {}
        self.copies: set[str] = set()  # floats on a second grid, of other bits
        self.exact: set[str] = set()  # floats that are pixels of an image, or multiples of a tensor on a grid

    def run(self) -> ExistingQparams:
        for node in self.graph.node:
            for roles, stored in zip(weight_roles(node), find_weights(node, self.tensors), strict=True):
                self.weight(node, roles, stored)
        self.read = self.outputs.union(*(node.input for node in self.graph.node))
        nodes: list[NodeProto] = []
        for node in self.graph.node:
            if node.op_type == "QuantizeLinear":
                self.require_readers(node)
            if node.op_type == "DequantizeLinear":
                nodes.extend(self.dequantize(node))
            else:
                nodes.append(node)
        self.check_readers()
        nodes = self.rewired(nodes)
        self.prune(nodes)
        return ExistingQparams(self.weights, self.ranges, self.unkept, self.float_readers, frozenset(self.copies))

    def weight(self, node: NodeProto, roles: Roles, stored: StoredWeight) -> None:
        """Give a layer whose weight is stored as codes an initializer with the dequantized values."""
        index = roles.weight if node.input[roles.weight] == stored.path[0] else 0
        shared = stored.path[-1], "" if stored.scale is None else stored.scale.name
        if shared in self.shared:
            node.input[index] = self.shared[shared]
            return
        codes = weight_codes(stored, self.tensors, self.bias_codes(node))
        if codes is None:
            return
        node.input[index] = name = self.floats(codes.values(), stored.path)
        self.weights[name] = codes
        self.shared[shared] = name

    def floats(self, values: Floats, path: list[str]) -> str:
        """Add an initializer under the name that it had before it was quantized. Return the name."""
        last = self.tensors.constants[path[-1]]
        if last.data_type == TensorProto.FLOAT and len(self.readers[path[-1]]) == 1 and path[-1] not in self.new_names:
            name = path[-1]
        else:
            name = self.name(_plain_name(path[0]), path[0])
        self.add(name, values)
        return name

    def add(self, name: str, values: Floats) -> None:
        self.new_names.add(name)
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))

    def bias_codes(self, node: NodeProto) -> NDArray[np.int32] | None:
        maker = self.tensors.makers.get(node.input[2]) if len(node.input) > 2 else None
        if maker is None or maker.op_type != "DequantizeLinear":
            return None
        codes = self.tensors.constants.get(maker.input[0])
        return numpy_helper.to_array(codes) if codes is not None and codes.data_type == TensorProto.INT32 else None

    def dequantize(self, node: NodeProto) -> list[NodeProto]:
        """Record the tensor that a DequantizeLinear represents. Return the nodes that replace it."""
        source = self.tensors.makers.get(node.input[0])
        clip = source if source is not None and source.op_type == "Clip" else None
        quantize = self.tensors.makers.get(clip.input[0]) if clip is not None else source
        floats = rounded_floats(node, self.tensors)
        if floats is not None:
            self.originals[node.output[0]] = floats
            return []
        constant = found_constant(node, self.tensors)
        if constant is not None:
            self.constant_of(node, constant)
            return []
        stored = find_stored(node.output[0], self.tensors)
        if stored.codes is not None:
            raise ModelError(
                f"{node.output[0]} is a constant in a form that is not read ({stored.type} with scales of "
                f"{'float32' if stored.scale is None else type_name(stored.scale.data_type)}); pass the float model"
            )
        if (quantize is None or quantize.op_type != "QuantizeLinear") and self.are_pixels(node.input[0]):
            return self.floats_of_pixels(node)
        if quantize is None or quantize.op_type != "QuantizeLinear":
            raise ModelError(f"{node.input[0]} holds codes that no QuantizeLinear writes; {ADVICE}")
        root = self.root(quantize.input[0])
        grid = grid_of(node, root, self.tensors)
        written = grid_of(quantize, root, self.tensors)
        if not same_grid(written, grid):
            return self.multiple_of_floats(node, clip, root, written, grid)
        if clip is not None:
            nodes, self.originals[node.output[0]] = self.clip_of_floats(clip, root, grid)
            return nodes
        if quantize.input[0] in self.originals and root in self.ranges and self.ranges[root].bits != grid.bits:
            return self.copy_of_floats(node, root, grid)
        self.record_grid(root, grid)
        self.originals[node.output[0]] = root
        return []

    def copy_of_floats(self, node: NodeProto, root: str, grid: ActivationGrid) -> list[NodeProto]:
        """The node for a tensor that is quantized again, with other bits: an Identity (`passes.activations.widths`)."""
        name = self.name(f"{root}_{grid.bits}bit")
        self.record_grid(name, grid)
        self.copies.add(name)
        self.originals[node.output[0]] = name
        return [onnx.helper.make_node("Identity", [root], [name], name=name)]

    def are_pixels(self, name: str) -> bool:
        """Whether codes come from an input of the graph, and no operator has computed with them."""
        if name in self.images:
            return True
        maker = self.tensors.makers.get(name)
        return maker is not None and maker.op_type in _MOVES and any(map(self.are_pixels, maker.input))

    def floats_of_pixels(self, node: NodeProto) -> list[NodeProto]:
        """The nodes that compute the floats of pixels: (pixel - zero point) * scale."""
        name = self.name(_plain_name(node.output[0]))
        grid = grid_of(node, name, self.tensors)
        nodes = [onnx.helper.make_node("Cast", [node.input[0]], [f"{name}_pixels"], f"{name}_cast", to=_FLOAT)]
        if grid.zero_point:
            zero = self.constant_named(f"{name}_zero", np.array(grid.zero_point, np.float32))
            nodes.append(
                onnx.helper.make_node("Sub", [nodes[-1].output[0], zero], [f"{name}_centered"], f"{name}_center")
            )
        step = self.constant_named(f"{name}_step", np.array(grid.scale, np.float32))
        nodes.append(onnx.helper.make_node("Mul", [nodes[-1].output[0], step], [name], f"{name}_scale"))
        self.record_grid(name, grid)
        self.exact.add(name)
        self.originals[node.output[0]] = name
        return nodes

    def constant_of(self, node: NodeProto, constant: FoundConstant) -> None:
        """Replace a constant by its floats. A constant that is combined with activations keeps its grid."""
        if node.output[0] not in self.read or node.output[0] in self.new_names:
            return
        name = self.floats(constant.values(), find_stored(node.output[0], self.tensors).path)
        if name != node.output[0]:
            self.originals[node.output[0]] = name
        if constant.type in ACTIVATIONS and constant.codes.size and np.ptp(constant.scale) == 0:
            zero_point = int(constant.zero_point.flat[0])
            self.ranges[name] = typed_grid(float(constant.scale.flat[0]), zero_point, constant.type)

    def multiple_of_floats(
        self, node: NodeProto, clip: NodeProto | None, root: str, written: ActivationGrid, grid: ActivationGrid
    ) -> list[NodeProto]:
        """The nodes for codes that are dequantized with another scale or zero point than they were quantized with."""
        nodes: list[NodeProto] = []
        source = root
        if clip is not None:
            nodes, source = self.clip_of_floats(clip, root, written)
        else:
            self.record_grid(root, written)
        name = self.name(_plain_name(node.output[0]))
        factor = np.array(np.float64(grid.scale) / np.float64(written.scale), np.float32)
        inputs = [source, self.constant_named(f"{name}_factor", factor)]
        nodes.append(onnx.helper.make_node("Mul", inputs, [name], name=name))
        if grid.zero_point != written.zero_point:
            shift = np.array((written.zero_point - grid.zero_point) * np.float64(grid.scale), np.float32)
            nodes[-1].output[0] = f"{name}_unshifted"
            inputs = [f"{name}_unshifted", self.constant_named(f"{name}_shift", shift)]
            nodes.append(onnx.helper.make_node("Add", inputs, [name], name=f"{name}_add"))
        self.record_grid(name, grid)
        self.exact.add(name)
        self.originals[node.output[0]] = name
        return nodes

    def clip_of_floats(self, clip: NodeProto, root: str, grid: ActivationGrid) -> tuple[list[NodeProto], str]:
        """Replace a Clip of codes by a Clip of floats, or by nothing if it passes all codes. Return what it writes."""
        ends = list(grid.code_range)
        for index, name in enumerate(clip.input[1:3]):
            if name:
                ends[index] = int(numpy_helper.to_array(required_constant(name, root, self.tensors)))
        if ends[0] <= grid.code_range[0] and ends[1] >= grid.code_range[1]:
            self.record_grid(root, grid)
            return [], root
        result = self.name(f"{root}_clipped")
        bounds = []
        for which, end in zip(("low", "high"), ends, strict=True):
            value = np.array(np.float32(end - grid.zero_point) * grid.scale)
            bounds.append(self.constant_named(f"{result}_{which}", value))
        self.record_grid(result, grid)
        return [onnx.helper.make_node("Clip", [root, *bounds], [result], name=result)], result

    def record_grid(self, root: str, grid: ActivationGrid) -> None:
        """Record the grid of a tensor. If it already has a different one, neither can be kept."""
        before = self.ranges.setdefault(root, grid)
        if (before.scale, before.zero_point, before.signed) != (grid.scale, grid.zero_point, grid.signed):
            self.unkept[root] = "is quantized twice, on different grids"

    def require_readers(self, node: NodeProto) -> None:
        """Require that codes are only dequantized."""
        for reader in self.readers.get(node.output[0], ()):
            follows = [reader] if reader.op_type != "Clip" else self.readers.get(reader.output[0], [])
            for other in follows:
                if other.op_type != "DequantizeLinear":
                    raise ModelError(
                        f"{other.name or other.op_type} ({other.op_type}) computes on the codes of {node.input[0]}; "
                        f"{ADVICE}"
                    )
        if node.output[0] in self.outputs:
            raise ModelError(f"the output {node.output[0]} holds codes; end the model with DequantizeLinear")

    def check_readers(self) -> None:
        """Find tensors that some nodes read quantized, and other nodes or the graph's outputs in float.

        A node with bodies reads what they read, in float, whatever they do with it.
        """
        operators: dict[str, list[str]] = {}
        for node in self.graph.node:
            for name in dict.fromkeys(node.input):
                operators.setdefault(name, []).append(node.op_type)
        for name in self.ranges:
            readers = operators.get(name, [])
            floats = sum(op not in {"QuantizeLinear", "Shape", "Size"} for op in readers)
            if "QuantizeLinear" in readers and (floats or name in self.outputs):
                self.float_readers[name] = floats

    def root(self, name: str) -> str:
        """The tensor that a dequantized tensor was quantized from."""
        while name in self.originals:
            name = self.originals[name]
        return name

    def rewired(self, nodes: list[NodeProto]) -> list[NodeProto]:
        """The computing nodes, which read and write tensors under their names before quantization."""
        renamed: dict[str, str] = {}
        inputs = {value.name for value in self.graph.input}
        ends = []
        for output in self.outputs & set(self.originals):
            root = self.root(output)
            if root in inputs | self.outputs | self.new_names | set(self.tensors.constants) or root in renamed:
                ends.append(onnx.helper.make_node("Identity", [renamed.get(root, root)], [output]))
                continue
            renamed[root] = output
            if root in self.ranges:
                self.ranges[output] = self.ranges.pop(root)
            if root in self.unkept:
                self.unkept[output] = self.unkept.pop(root)
            if root in self.float_readers:
                self.float_readers[output] = self.float_readers.pop(root)
        nodes = [node for node in nodes if node.op_type != "QuantizeLinear"]
        for node in nodes:
            node.input[:] = [renamed.get(self.root(name), self.root(name)) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]
        ranges = {name: grid for name, grid in self.ranges.items() if name not in self.unkept}
        clamped = {name: grid for name, grid in ranges.items() if name not in self.exact}
        return with_clamps(nodes, clamped, self.outputs, self.constant_named) + ends

    def constant_named(self, wanted: str, values: Floats) -> str:
        name = self.name(wanted)
        self.add(name, values)
        return name

    def prune(self, nodes: list[NodeProto]) -> None:
        """Write back the nodes and initializers that an output needs. Drop the entries of other tensors."""
        needed = set(self.outputs)
        added = {tensor.name for tensor in self.initializers}
        needed_nodes = []
        for node in reversed(nodes):
            # A node that wrote one of the new initializers is no longer needed.
            if needed.intersection(node.output) and not added.intersection(node.output):
                needed_nodes.append(node)
                needed.update(node.input)
        old = [tensor for tensor in self.graph.initializer if tensor.name not in added]
        initializers = [tensor for tensor in old + self.initializers if tensor.name in needed]
        shapes = [value for value in self.graph.value_info if value.name in needed]
        for field, content in (("node", needed_nodes[::-1]), ("initializer", initializers), ("value_info", shapes)):
            self.graph.ClearField(field)
            getattr(self.graph, field).extend(content)
        for table in (self.ranges, self.unkept, self.weights, self.float_readers):
            for name in table.keys() - needed:
                del table[name]

    def name(self, wanted: str, own: str = "") -> str:
        """The wanted name, or that name with a number if it is taken. ``own`` is a tensor whose name becomes free."""
        name, count = wanted, 0
        while name in self.new_names or (name in self.taken and name != own):
            count += 1
            name = f"{wanted}_{count}"
        self.new_names.add(name)
        return name


def _plain_name(name: str) -> str:
    """The name of a weight or tensor before its codes were written under a longer name."""
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return name
