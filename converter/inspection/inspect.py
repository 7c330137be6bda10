"""Content of an ONNX file, layer by layer: bits, storage, bytes, and whether onnxruntime computes with the codes.

It works on any file: float files, files of this package, and QDQ or integer operators of other tools. "Fused" is what
onnxruntime really does. To find out, the file is opened on the CPU, and the graph that onnxruntime optimized is read.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from onnx import NodeProto

from converter.display.numbers import NOTHING, size
from converter.display.overview import Glance, Overview
from converter.inspection.float_islands import Island, find_islands
from converter.model_io.load import read_whole_onnx
from converter.model_io.malformed import refusing_malformed
from converter.model_io.open import ExportOptions, model_files
from converter.model_io.structure import model_bytes
from converter.qdq.pruned import CHANNELS_KEY, shares_of_zeros, taken_channels
from converter.qdq.stored_weights import (
    StoredWeight,
    Tensors,
    find_weights,
    int_attribute,
    layer_roles,
    tensor_bytes,
    type_bits,
    type_name,
)
from converter.runtime.optimized_graph import OptimizedGraph
from converter.runtime.steps import log_step

__all__ = ["InspectedLayer", "Inspection", "inspect"]

_PREFIX = "convert_onnx."
_SHOWN = 20  # layers in an overview
_CLAMPS = frozenset({"Relu", "Clip"})
_INT8_ACCURACY = 4  # accuracy_level at which MatMulNBits rounds its activations to int8; below it they are floats


@dataclass(frozen=True)
class InspectedLayer:
    """One linear node, LSTM, GRU or RNN of a file. Its fields are keys of the JSON.

    Attributes:
        name: Name of the node, or of its first output if the node has none.
        op: Operator.
        weight_bits: Bits of the weight's grid, or of its float type if it is not quantized. The most of W and R for an
            LSTM, GRU or RNN. None if no operand is a constant.
        storage: "float32", "int8", "int4 cast", "int4 dequantize", "int4 rescale", "matmulnbits", ...
        bytes: Bytes of codes, scales and zero points in the file.
        granularity: Weights that share a scale: "tensor", "channel", "block 32". Empty for floats.
        activation_bits: Bits of the input that the layer reads, or to which it rounds its input itself (MatMulNBits at
            accuracy_level 4).
        activation_type: Type of these values: "uint8", "float32", "float16", ...
        fused: Whether onnxruntime's CPU provider runs the layer as one operator that reads the codes. MatMulNBits
            multiplies codes by float activations. Every other such operator multiplies integers.
        reason: Why the layer is not fused, or how onnxruntime quantizes the weight by itself. Empty if neither applies.
        zeros: Share of the weights that are zero. It is counted in files with pruned layers, otherwise it is None.
    """

    name: str
    op: str
    weight_bits: int | None
    storage: str
    bytes: int
    granularity: str
    activation_bits: int
    activation_type: str
    fused: bool
    reason: str
    zeros: float | None = None

    @property
    def on_integers(self) -> bool:
        """Whether both operands of its products are integers."""
        return self.fused and self.activation_bits < 32


@dataclass(frozen=True, repr=False)
class Inspection(Overview):
    """Content of a file.

    Attributes:
        model: Facts about the file as a whole.
        layers: Its linear layers, in the graph's order.
        bytes_by_type: Bytes of its constants by tensor type.
    """

    model: dict[str, Any]
    layers: tuple[InspectedLayer, ...]
    bytes_by_type: dict[str, int]

    def overview(self) -> Glance:
        """Return the first layers, and the number of layers that run on integers."""
        rows = tuple(
            (
                layer.name,
                layer.op,
                NOTHING if layer.weight_bits is None else str(layer.weight_bits),
                layer.storage,
                size(layer.bytes),
                layer.activation_type,
                "yes" if layer.fused else layer.reason or "no",
            )
            for layer in self.layers[:_SHOWN]
        )
        integer = sum(layer.on_integers for layer in self.layers)
        headline = (
            f"Inspection of {self.model['path']}: {size(self.model['bytes'])}, "
            f"{integer} of {len(self.layers)} layers on integers"
        )
        notes = (f"the first {_SHOWN} of {len(self.layers)} layers",) if len(self.layers) > _SHOWN else ()
        columns = ("layer", "op", "weight bits", "storage", "bytes", "input", "fused")
        return Glance(headline, columns, rows, notes, (2, 4))

    def to_json(self) -> dict[str, Any]:
        """Return `{"model": {...}, "layers": [{...}], "bytes_by_type": {...}}`."""
        layers = [asdict(layer) for layer in self.layers]
        return {"model": self.model, "layers": layers, "bytes_by_type": self.bytes_by_type}


def inspect(
    model: Any,
    *,
    name: str | None = None,
    export: ExportOptions = ExportOptions(),  # noqa: B008  (frozen)
) -> Inspection:
    """Inspect a model, layer by layer.

    Args:
        model: Path of an .onnx file, ``FILE.py:FACTORY``, an onnx.ModelProto or a torch module.
        name: Name of the model in the result. The default is its path.
        export: Weights and input shape of a torch model.

    Raises:
        ModelError: The file does not exist, is not an ONNX file, is truncated, or lacks its external data.
        ConvertError: Any other error that a user can correct.
    """
    files = model_files([model], export, None if name is None else [name])
    with log_step("inspect"), files as (file,), refusing_malformed(file.name):
        return _inspected(file.path, file.name)


def _inspected(path: Path, name: str) -> Inspection:
    """Inspect a file."""
    model = read_whole_onnx(path)
    size = model_bytes(path)
    metadata = {
        entry.key.removeprefix(_PREFIX): entry.value for entry in model.metadata_props if entry.key.startswith(_PREFIX)
    }
    tensors = Tensors.of(_inlined(model).graph)
    runtime = OptimizedGraph.open(path)
    bits, reasons = _mapping(metadata.get("layer_bits")), _mapping(metadata.get("float_reasons"))
    reasons |= _mapping(metadata.get("kept"))  # version 0.1 wrote float_reasons under this key
    reasons |= _mapping(metadata.get("float_activations"))
    layers = tuple(
        _layer(node, tensors, runtime, bits, reasons) for node in tensors.nodes if layer_roles(node) is not None
    )
    zeros = shares_of_zeros(model)
    layers = tuple(replace(layer, zeros=zeros.get(layer.name)) for layer in layers)
    by_type: dict[str, int] = {}
    for tensor in tensors.constants.values():
        kind = type_name(tensor.data_type)
        by_type[kind] = by_type.get(kind, 0) + tensor_bytes(tensor)
    return Inspection(_facts(name, model, size, metadata, runtime), layers, dict(sorted(by_type.items())))


def _layer(
    node: NodeProto, tensors: Tensors, runtime: OptimizedGraph, bits: Mapping[str, Any], reasons: Mapping[str, Any]
) -> InspectedLayer:
    weights = find_weights(node, tensors)
    weight, constant = weights[0], [each for each in weights if each.codes is not None]
    running = runtime.integer_node(node, weight)
    name, activation = node.name or node.output[0], _activation_type(node, running, weight, tensors)
    fused = running is not None and all(map(_is_quantized, constant))
    stored = max(map(_stored_bits, constant), default=0)
    storage, granularity = (_both(getattr(each, what) for each in weights) for what in ("storage", "granularity"))
    if node.op_type == "MatMulNBits":
        stored, storage = int_attribute(node, "bits", 4), "matmulnbits"
    quantized = all(map(_is_quantized, weights))
    grid = bits.get(name, stored) if quantized else stored
    reason = "" if fused else _reason(node, weights, activation, tensors, runtime, reasons.get(name))
    rounded = "" if any(map(_is_quantized, weights)) or not constant else runtime.rounds_weight(node)
    if rounded:
        grid, granularity, fused = type_bits(rounded), "tensor", running is not None
        reason = f"onnxruntime rounds its {weight.type} weight to {rounded} at load, one scale for the whole tensor"
    return InspectedLayer(
        name=name,
        op=node.op_type,
        weight_bits=grid if constant else None,
        storage=storage,
        bytes=sum(each.bytes for each in weights),
        granularity=granularity,
        activation_bits=type_bits(activation),
        activation_type=activation,
        fused=fused,
        reason=reason,
    )


def _both(texts: Iterable[str]) -> str:
    """Return what holds for W and R of a recurrent layer, once if it is the same. Empty texts are left out."""
    return " and ".join(dict.fromkeys(filter(None, texts)))


def _is_quantized(weight: StoredWeight) -> bool:
    """Whether a weight has codes in the file, or gets them by a QuantizeLinear when it is loaded."""
    return weight.codes is not None and (not weight.is_float or weight.storage.endswith(" quantize"))


def _reason(
    node: NodeProto,
    weights: Sequence[StoredWeight],
    activation: str,
    tensors: Tensors,
    runtime: OptimizedGraph,
    reason: str | None,
) -> str:
    """Return why no integer operator reads the layer's codes."""
    if all(each.codes is None for each in weights):
        return "no operand is a constant"
    if not all(map(_is_quantized, weights)):
        return reason or _why_float(weights)
    if runtime.problem:
        return runtime.problem
    if reason:
        return reason
    weight = weights[0]
    when = "dequantized " + ("on every run" if any(map(runtime.dequantizes_every_run, weights)) else "at load")
    if "float" in activation:
        return f"float activations; {when}"
    if node.op_type == "ConvTranspose":
        return f"no integer ConvTranspose; {when}"
    for what, bits in (("activations", type_bits(activation)), ("weights", weight.bits)):
        if bits > 8:
            return f"no integer kernel for {bits}-bit {what}; {when}"
    if node.op_type == "Conv" and not _is_rounded(node.output[0], tensors):
        return "its output is not quantized"
    if weight.bits < 8 and weight.storage.endswith("dequantize"):
        return f"not fused: DequantizeLinear of {weight.type}; {when}"
    if types := runtime.mixed_types(node):
        return f"not fused: onnxruntime makes {types[0]} of its input and {types[1]} of its output; {when}"
    return f"not fused by onnxruntime; {when}"


def _why_float(weights: Sequence[StoredWeight]) -> str:
    """Return which weight has no codes. It is named if the other one of a recurrent layer has some."""
    floats = {name: each.type for name, each in zip("WR", weights, strict=False) if not _is_quantized(each)}
    if len(floats) == len(weights) and len({*floats.values()}) == 1:
        return f"weight is {weights[0].type}"
    return " and ".join(
        f"weight {name} is {'no constant' if kind == 'none' else kind}" for name, kind in floats.items()
    )


def _is_rounded(name: str, tensors: Tensors) -> bool:
    """Whether all nodes that read a tensor quantize it. A clamp may come in between."""
    readers = [node for node in tensors.nodes if name in node.input]
    if len(readers) == 1 and readers[0].op_type in _CLAMPS:
        return _is_rounded(readers[0].output[0], tensors)
    return bool(readers) and all(node.op_type == "QuantizeLinear" for node in readers)


def _activation_type(node: NodeProto, running: NodeProto | None, weight: StoredWeight, tensors: Tensors) -> str:
    """Return the type of the layer's input, or of the integers that it was dequantized from.

    ``running`` is the node that onnxruntime runs instead of ``node``, or None.
    """
    roles = layer_roles(node)
    for other in (node, running):
        if other is not None and other.op_type == "MatMulNBits":
            return "int8" if int_attribute(other, "accuracy_level", 0) == _INT8_ACCURACY else weight.read_type
    if roles is not None and roles.activation is not None:
        return _type_of(tensors, _at(node.input, roles.activation))
    if node.op_type in {"DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}:
        return "uint8"
    maker = tensors.makers.get(node.input[0])
    if maker is None or maker.op_type != "DequantizeLinear" or _at(maker.input, 0) in tensors.constants:
        return weight.read_type
    return _type_of(tensors, _at(maker.input, 2))


def _stored_bits(weight: StoredWeight) -> int:
    """Return the bits of a weight, or those to which a QuantizeLinear in the file rounds a float weight at load."""
    if not weight.storage.endswith(" quantize"):
        return weight.bits
    return type_bits(type_name(weight.zero_point.data_type)) if weight.zero_point is not None else 8


def _type_of(tensors: Tensors, zero_point: str) -> str:
    tensor = tensors.constants.get(zero_point)
    return "uint8" if tensor is None else type_name(tensor.data_type)


def _facts(
    name: str, model: onnx.ModelProto, size: int, metadata: Mapping[str, str], runtime: OptimizedGraph
) -> dict[str, Any]:
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    constants = {tensor.name for tensor in model.graph.initializer}
    facts: dict[str, Any] = {
        "path": name,
        "bytes": size,
        "ir_version": model.ir_version,
        "opsets": opsets,
        "producer": " ".join(part for part in (model.producer_name, model.producer_version) if part),
        "inputs": _interface(value for value in model.graph.input if value.name not in constants),
        "outputs": _interface(model.graph.output),
        "nodes": len(model.graph.node),
        "loads": not runtime.problem,
        "islands": _islands(runtime),
    }
    if "recipe" in metadata:
        facts["recipe"] = _recipe_name(metadata["recipe"])
    if (taken := taken_channels(model)) is not None:
        facts[CHANNELS_KEY] = asdict(taken) | {"summary": taken.describe()}
    keys = ("target", "calibration", "preprocess", "embedded", "versions")
    return facts | {key: _decoded(metadata[key]) for key in keys if key in metadata}


def _interface(values: Iterable[onnx.ValueInfoProto]) -> dict[str, str]:
    """Return the types and sizes of inputs or outputs by name, such as "float [n, 3, 224, 224]"."""
    found = {}
    for value in values:
        tensor = value.type.tensor_type
        sizes = ", ".join(
            size.dim_param or (str(size.dim_value) if size.dim_value else "?") for size in tensor.shape.dim
        )
        shape = f" [{sizes}]" if tensor.HasField("shape") else ""
        found[value.name] = f"{type_name(tensor.elem_type)}{shape}" if tensor.elem_type else "no tensor"
    return found


def _islands(runtime: OptimizedGraph) -> list[dict[str, Any]]:
    """Return the float islands, grouped by their operators."""
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
