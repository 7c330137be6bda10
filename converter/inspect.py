"""What is in an ONNX file, layer by layer: bits, storage, bytes, and whether onnxruntime computes with the codes.

Works on any file: float, ours, other tools' QDQ or integer operators. "Fused" is what onnxruntime really does: the file
is opened on the CPU and the graph it optimized is read back.
"""

import json
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import NodeProto

from converter.evaluate import model_bytes
from converter.islands import Island, find_islands
from converter.load import read_onnx
from converter.runtime import open_session
from converter.stored_weights import (
    INTEGER_OPS,
    StoredWeight,
    Tensors,
    find_weight,
    layer_roles,
    tensor_bytes,
    type_bits,
    type_name,
)
from passes.errors import ModelError

__all__ = ["InspectedLayer", "Inspection", "inspect_model"]

_PREFIX = "convert_onnx."
_INT8_ACCURACY = 4  # accuracy_level at which MatMulNBits rounds its activations to int8; they are floats below


@dataclass(frozen=True)
class InspectedLayer:
    """One linear node of a file. Its fields are the keys of `inspect --json`.

    name             of the node, or of its first output if it has none
    weight_bits      of the weight's grid; of its float type if it is not quantized; None if no operand is a constant
    storage          "float32", "int8", "int4 cast", "int4 dequantize", "int4 rescale", "matmulnbits", ...
    bytes            of codes, scales and zero points in the file
    granularity      what shares a scale: "tensor", "channel", "block 32"; empty for floats
    activation_bits  of what the layer reads, or itself rounds it to (MatMulNBits at accuracy_level 4)
    fused            whether onnxruntime's CPU provider runs it as one operator that reads the codes; MatMulNBits reads
                     them beside float activations, every other one multiplies integers
    reason           why not; empty if it does
    """

    name: str
    op: str
    weight_bits: int | None
    storage: str
    bytes: int
    granularity: str
    activation_bits: int
    fused: bool
    reason: str

    @property
    def on_integers(self) -> bool:
        """Whether both operands of its products are integers."""
        return self.fused and self.activation_bits < 32


@dataclass(frozen=True)
class Inspection:
    """A file as a whole, its linear layers in the graph's order, and the bytes of its constants by tensor type."""

    model: dict[str, Any]
    layers: tuple[InspectedLayer, ...]
    bytes_by_type: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """{"model": {...}, "layers": [{...}], "bytes_by_type": {...}}."""
        layers = [asdict(layer) for layer in self.layers]
        return {"model": self.model, "layers": layers, "bytes_by_type": self.bytes_by_type}


def inspect_model(path: str | Path, name: str | None = None) -> Inspection:
    """Look into an ONNX file; ``name`` is what it is called, its path by default.

    Raises:
        ModelError: no such file, not an ONNX file, truncated, or its external data are missing.
    """
    path = Path(path)
    model = read_onnx(path)
    size = model_bytes(path)
    metadata = {
        entry.key.removeprefix(_PREFIX): entry.value for entry in model.metadata_props if entry.key.startswith(_PREFIX)
    }
    tensors = Tensors.of(_inlined(model).graph)
    runtime = _Runtime.open(path)
    bits, kept = _mapping(metadata.get("layer_bits")), _mapping(metadata.get("kept"))
    kept |= _mapping(metadata.get("float_activations"))
    layers = tuple(
        _layer(node, tensors, runtime, bits, kept) for node in tensors.nodes if layer_roles(node) is not None
    )
    by_type: dict[str, int] = {}
    for tensor in tensors.constants.values():
        kind = type_name(tensor.data_type)
        by_type[kind] = by_type.get(kind, 0) + tensor_bytes(tensor)
    return Inspection(_facts(name or str(path), model, size, metadata, runtime), layers, dict(sorted(by_type.items())))


class _Runtime:
    """The graph that onnxruntime runs; none, and why, if it cannot load the file."""

    def __init__(self, graph: Tensors | None, problem: str = "") -> None:
        self.graph = graph
        self.problem = problem
        nodes = graph.nodes if graph is not None else ()
        self._by_output = {name: node for node in nodes for name in node.output}
        self._integer = [node for node in nodes if node.op_type in INTEGER_OPS]
        self._by_name: dict[str, list[NodeProto]] = {}
        for node in nodes:  # a node onnxruntime makes in place of another bears its name, or name_token_1
            self._by_name.setdefault(node.name.partition("_token_")[0], []).append(node)

    @classmethod
    def open(cls, path: Path) -> "_Runtime":
        with tempfile.TemporaryDirectory(prefix="convert-onnx-") as folder:
            optimized = Path(folder) / "optimized.onnx"
            try:
                open_session(path, threads=1, optimized=optimized)
            except ModelError as error:
                return cls(None, str(error))
            return cls(Tensors.of(onnx.load_model(optimized, load_external_data=False).graph))

    def integer_node(self, node: NodeProto, weight: StoredWeight) -> NodeProto | None:
        """The integer operator that this node became: by its name, else its output, else its weight."""
        candidates = self._by_name.get(node.name, []) if node.name else []
        if not candidates:
            path = set(weight.path)
            readers = [other for other in self._integer if _at(other.input, INTEGER_OPS[other.op_type].weight) in path]
            candidates = [self._by_output[name] for name in node.output if name in self._by_output] or readers
        return next((other for other in candidates if other.op_type in INTEGER_OPS), None)

    def dequantizes_every_run(self, node: NodeProto) -> bool:
        """Whether the node's weight is still computed in the optimized graph."""
        candidates = self._by_name.get(node.name, []) if node.name else []
        other = candidates[0] if candidates else self._by_output.get(node.output[0])
        if other is None or self.graph is None:
            return False
        roles = layer_roles(other)
        return roles is not None and _at(other.input, roles.weight) in self.graph.makers


def _layer(
    node: NodeProto, tensors: Tensors, runtime: _Runtime, bits: Mapping[str, Any], kept: Mapping[str, Any]
) -> InspectedLayer:
    weight = find_weight(node, tensors)
    running = runtime.integer_node(node, weight)
    name, activation_bits = node.name or node.output[0], _activation_bits(node, running, tensors)
    fused = not weight.is_float and running is not None
    stored, storage = weight.bits, weight.storage
    if node.op_type == "MatMulNBits":
        stored, storage = _attribute(node, "bits", 4), "matmulnbits"
    elif storage.endswith(" quantize"):
        stored, fused = _quantized_bits(weight), running is not None
    quantized = weight.codes is not None and (not weight.is_float or storage.endswith(" quantize"))
    grid = bits.get(name, stored) if quantized else stored
    return InspectedLayer(
        name=name,
        op=node.op_type,
        weight_bits=None if weight.codes is None else grid,
        storage=storage,
        bytes=weight.bytes,
        granularity=weight.granularity,
        activation_bits=activation_bits,
        fused=fused,
        reason="" if fused else _reason(node, weight, quantized, activation_bits, tensors, runtime, kept.get(name)),
    )


def _reason(
    node: NodeProto,
    weight: StoredWeight,
    quantized: bool,
    activation_bits: int,
    tensors: Tensors,
    runtime: _Runtime,
    kept: str | None,
) -> str:
    """Why no integer operator reads the layer's codes."""
    if weight.codes is None:
        return "no operand is a constant"
    if not quantized:
        return kept or f"weight is {weight.type}"
    if runtime.problem:
        return runtime.problem
    if kept:
        return kept
    when = "dequantized " + ("on every run" if runtime.dequantizes_every_run(node) else "at load")
    if activation_bits == 32:
        return f"float activations; {when}"
    if node.op_type == "ConvTranspose":
        return f"no integer ConvTranspose; {when}"
    readers = [other.op_type for other in tensors.nodes if node.output[0] in other.input]
    if node.op_type == "Conv" and readers != ["QuantizeLinear"]:
        return "its output is not quantized"
    if weight.bits < 8 and weight.storage.endswith("dequantize"):
        return f"not fused: DequantizeLinear of {weight.type}; {when}"
    return f"not fused by onnxruntime; {when}"


def _activation_bits(node: NodeProto, running: NodeProto | None, tensors: Tensors) -> int:
    """Bits of the layer's input, by the integers it was dequantized from; ``running`` is what the node became."""
    roles = layer_roles(node)
    for other in (node, running):
        if other is not None and other.op_type == "MatMulNBits":
            return 8 if _attribute(other, "accuracy_level", 0) == _INT8_ACCURACY else 32
    if node.op_type in {"ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}:
        return 8
    if roles is not None and roles.activation is not None:
        return _bits_of(tensors, _at(node.input, roles.activation))
    maker = tensors.makers.get(node.input[0])
    if maker is None or maker.op_type != "DequantizeLinear" or _at(maker.input, 0) in tensors.constants:
        return 32
    return _bits_of(tensors, _at(maker.input, 2))


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((int(entry.i) for entry in node.attribute if entry.name == name), default)


def _quantized_bits(weight: StoredWeight) -> int:
    """Bits of a float weight that a QuantizeLinear in the file rounds at load."""
    return type_bits(type_name(weight.zero_point.data_type)) if weight.zero_point is not None else 8


def _bits_of(tensors: Tensors, zero_point: str) -> int:
    tensor = tensors.constants.get(zero_point)
    return 8 if tensor is None else type_bits(type_name(tensor.data_type))


def _facts(
    name: str, model: onnx.ModelProto, size: int, metadata: Mapping[str, str], runtime: _Runtime
) -> dict[str, Any]:
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    facts: dict[str, Any] = {
        "path": name,
        "bytes": size,
        "ir_version": model.ir_version,
        "opsets": opsets,
        "producer": " ".join(part for part in (model.producer_name, model.producer_version) if part),
        "nodes": len(model.graph.node),
        "loads": not runtime.problem,
        "islands": _islands(runtime),
    }
    if "recipe" in metadata:
        facts["recipe"] = _recipe_name(metadata["recipe"])
    keys = ("target", "calibration", "preprocess", "versions")
    return facts | {key: _decoded(metadata[key]) for key in keys if key in metadata}


def _islands(runtime: _Runtime) -> list[dict[str, Any]]:
    """Floats between integers, those of the same operators together."""
    alike: dict[tuple[str, ...], list[Island]] = {}
    for island in find_islands(runtime.graph.nodes if runtime.graph is not None else ()):
        alike.setdefault(island.operators, []).append(island)
    return [
        {
            "operators": list(operators),
            "count": len(group),
            "nodes": [name for island in group for name in island.nodes],
            "dequantize": sum(island.dequantize for island in group),
            "quantize": sum(island.quantize for island in group),
        }
        for operators, group in alike.items()
    ]


def _recipe_name(text: str) -> str | None:
    try:
        return tomllib.loads(text).get("name")
    except tomllib.TOMLDecodeError:
        return None


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _mapping(text: str | None) -> dict[str, Any]:
    value = _decoded(text) if text else {}
    return value if isinstance(value, dict) else {}


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _at(names: Sequence[str], index: int) -> str:
    return names[index] if index < len(names) else ""
