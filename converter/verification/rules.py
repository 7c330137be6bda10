"""Checks a file against the facts of a target, node by node.

This replaces a run for targets that cannot run here, and gives advice for the others. A rule is a small function over
the file's graph. It reads facts from the target, and the target's `sources` say where each fact comes from. So a rule
holds for every target, and no rule knows a target's name.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from converter.model_io.load import read_whole_onnx
from converter.qdq.pruned import nonzeros, pruned_patterns
from converter.qdq.stored_weights import (
    find_weight,
    int_attribute,
    layer_roles,
    type_bits,
    type_name,
)
from converter.targets.target import Target
from converter.verification.quantized_file import QuantizedFile
from passes.ir.linear import LINEAR_OPS

__all__ = ["RULES", "Rule", "Violation", "violations"]

_QUANTIZED = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "DynamicQuantizeLSTM",
        "ConvInteger",
        "MatMulInteger",
        "MatMulNBits",
    }
)


@dataclass(frozen=True)
class Violation:
    """Something in a file that the target does not accept, the fact that it violates, and the source of that fact."""

    fact: str
    what: str
    source: str


@dataclass(frozen=True)
class Rule:
    """One rule. `fact` is the field of `Target` or `Rules` that it reads. `check` yields a sentence per violation."""

    fact: str
    check: Callable[[QuantizedFile, Target], Iterator[str]]


def _opset(file: QuantizedFile, target: Target) -> Iterator[str]:
    opset = next((entry.version for entry in file.model.opset_import if entry.domain in {"", "ai.onnx"}), 0)
    if target.opset is not None and opset > target.opset:
        yield f"opset {opset} is above {target.opset}"


def _static_shapes(file: QuantizedFile, target: Target) -> Iterator[str]:
    for value in file.model.graph.input if target.static_shapes else ():
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value"):
                yield f"input {value.name}: dimension {axis} is open ({dim.dim_param or 'unnamed'})"


def _signed(file: QuantizedFile, target: Target) -> Iterator[str]:
    for node, zero_point in file.activations():
        kind = type_name(TensorProto.UINT8 if zero_point is None else zero_point.data_type)
        expected = ("" if target.rules.signed else "u") + kind.lstrip("u")
        if kind != expected:
            yield f"{node.name}: activations are {kind}, not {expected}"


def _activation_bits(file: QuantizedFile, target: Target) -> Iterator[str]:
    for node, zero_point in file.activations():
        bits = 8 if zero_point is None else type_bits(type_name(zero_point.data_type))
        if bits not in target.rules.activation_bits:
            allowed = " or ".join(map(str, sorted(target.rules.activation_bits)))
            yield f"{node.name}: activations have {bits} bits, the target has integer kernels for {allowed}"


def _wide_ranges(file: QuantizedFile, target: Target) -> Iterator[str]:
    wide, makers, constants = target.rules.wide_ranges, file.tensors.makers, file.tensors.constants
    for node, zero in file.activations():
        maker, scale = makers.get(node.input[0]), constants.get(node.input[1])
        if maker and maker.op_type in wide and zero and scale and type_bits(type_name(zero.data_type)) == 16:
            step, given = wide[maker.op_type] / 2**16, numpy_helper.to_array(scale)
            if numpy_helper.to_array(zero).any() or not np.allclose(given, step, atol=0):
                yield f"{node.name}: its 16 bits need step {step:g} and zero point 0"


def _symmetric(file: QuantizedFile, target: Target) -> Iterator[str]:
    for node, zero_point in file.activations() if target.rules.symmetric else ():
        if zero_point is not None and numpy_helper.to_array(zero_point).any():
            yield f"{node.name}: zero point {int(numpy_helper.to_array(zero_point).reshape(-1)[0])} is not 0"


def _weight_zero_points(file: QuantizedFile, target: Target) -> Iterator[str]:
    for node, weight, integer in file.layers():
        zero_point = weight.zero_point
        if integer and zero_point is not None and not target.rules.weight_zero_points and _codes(zero_point).any():
            yield f"{node.name}: a weight zero point is not 0"


def _narrowest(file: QuantizedFile, target: Target) -> Iterator[str]:
    for name, tensor in file.tensors.constants.items():
        kind = type_name(tensor.data_type)
        if kind.lstrip("u").startswith("int") and type_bits(kind) < target.rules.narrowest:
            yield f"{name}: {kind}, the smallest integers are int{target.rules.narrowest}"


def _int4(file: QuantizedFile, target: Target) -> Iterator[str]:
    for node, weight, integer in file.layers():
        form = weight.storage.rpartition(" ")[2]
        if integer and weight.bits < 8 and form in {"cast", "dequantize"} and target.int4 not in {form, "none"}:
            yield f"{node.name}: codes are read by {form}, not {target.int4}"


def _weight_only(file: QuantizedFile, target: Target) -> Iterator[str]:
    for node, _, integer in file.layers():
        if not integer and not target.rules.weight_only:
            yield f"{node.name}: its weight is quantized and its input is float"


def _no_float(file: QuantizedFile, target: Target) -> Iterator[str]:
    if not target.rules.no_float:
        return
    integer = {node.output[0] for node, _, integer in file.layers() if integer}
    for node in file.tensors.nodes:
        kernel = _kernel(node, file)
        if kernel not in target.rules.no_float or node.output[0] in integer:
            continue
        rounded = file.rounded(node.output[0]) and file.dequantized(node.input[0])
        if layer_roles(node) is not None or not rounded:
            yield f"{node.name}: there is no float {kernel}"


def _kernel(node: NodeProto, file: QuantizedFile) -> str:
    """Name of the kernel that a node needs: its operator, with the attribute that distinguishes kernels."""
    if node.op_type in {"Conv", "ConvTranspose"}:
        weight = find_weight(node, file.tensors)
        return node.op_type if weight.codes is None else f"{node.op_type} {weight.rank - 2}-D"
    if node.op_type == "Resize":
        mode = next((entry.s.decode() for entry in node.attribute if entry.name == "mode"), "nearest")
        return f"Resize {mode}"
    return str(node.op_type)


def _linear(file: QuantizedFile, target: Target) -> Iterator[str]:
    for node, _, integer in file.layers():
        if integer and node.op_type not in target.rules.linear:
            yield f"{node.name}: no integer {node.op_type}, so it runs on dequantized floats"


def _compute(file: QuantizedFile, target: Target) -> Iterator[str]:
    """A float operator may stand between integer ones. Between two float operators, quantization is in vain."""
    operators, written = target.rules.compute | target.rules.moving, file.on_integers(target.rules)
    for node, _ in file.activations():
        readers = list(file.behind(node))
        read = any(reader.op_type in operators or written.intersection(reader.output) for reader in readers)
        if node.input[0] not in written and not read:
            maker = file.tensors.makers.get(node.input[0])
            source = "an input" if maker is None else f"the result of {maker.op_type}"
            yield f"{node.name}: {source} is quantized, but neither it nor {_names(readers)} has an integer kernel"


def _moving(file: QuantizedFile, target: Target) -> Iterator[str]:
    for node in file.tensors.nodes:
        if node.op_type not in target.rules.moving or not node.input or not file.dequantized(node.input[0]):
            continue
        if node.op_type == "MaxPool" and len(node.output) > 1:
            continue  # runs in float with a grid of its own, like a Resize that is not nearest
        if node.op_type == "Resize" and _kernel(node, file) != "Resize nearest":
            continue
        before = file.tensors.makers[node.input[0]]
        for reader in (reader for name in node.output for reader in file.readers.get(name, [])):
            ends = any(last.output[0] in file.outputs for last in file.readers.get(reader.output[0], []))
            if reader.op_type == "QuantizeLinear" and not ends and not _same_grid(before, reader, file):
                yield f"{node.name}: {node.op_type} keeps its input's grid, {reader.name} has another one"


def _same_grid(first: NodeProto, second: NodeProto, file: QuantizedFile) -> bool:
    """Whether two QuantizeLinear or DequantizeLinear nodes have equal scales and zero points."""
    pairs = zip(first.input[1:3], second.input[1:3], strict=False)
    constants = ([file.tensors.constants.get(name) for name in pair] for pair in pairs)
    return all(
        one is not None
        and other is not None
        and np.array_equal(numpy_helper.to_array(one), numpy_helper.to_array(other))
        for one, other in constants
    )


def _absorbable(file: QuantizedFile, target: Target) -> Iterator[str]:
    for node, _, integer in file.layers():
        if not integer or node.op_type not in target.rules.linear - target.rules.float_outputs:
            continue
        for reader in file.readers.get(node.output[0], []):
            absorbed = reader.op_type in target.rules.absorbable and file.rounded(reader.output[0])
            if reader.op_type != "QuantizeLinear" and not absorbed:
                clamps = " or ".join(sorted(target.rules.absorbable)) or "nothing"
                yield f"{node.name}: {reader.op_type} reads its float output; only {clamps} can be fused into it"


def _names(nodes: list[NodeProto]) -> str:
    return ", ".join(sorted({node.op_type for node in nodes})) or "a graph output"


def _conv_dims(file: QuantizedFile, target: Target) -> Iterator[str]:
    for node, weight, integer in file.layers():
        dims = weight.rank - 2
        kernel = node.op_type in target.rules.linear and node.op_type in {"Conv", "ConvTranspose"}
        if integer and kernel and dims not in target.rules.conv_dims:
            yield f"{node.name}: no integer {node.op_type} of {dims} dimensions"


def _channel_axes(file: QuantizedFile, target: Target) -> Iterator[str]:
    for node, weight, integer in file.layers():
        transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
        expected = target.rules.channel_axis(node.op_type, transposed=transposed)
        for step in weight.operators:
            if (
                integer
                and expected is not None
                and step.op_type == "DequantizeLinear"
                and (weight.granularity == "channel" or weight.multiples is not None)
            ):
                axis = int_attribute(step, "axis", 1)
                if axis % max(weight.rank, 1) != expected:
                    yield f"{node.name}: scales along axis {axis} of the weight, not {expected}"


def _weight_types(file: QuantizedFile, target: Target) -> Iterator[str]:
    for node, weight, integer in file.layers():
        casts = [step for step in weight.operators if step.op_type == "Cast"]
        kind = type_name(next(entry.i for entry in casts[0].attribute if entry.name == "to")) if casts else weight.type
        kernel, allowed = integer and node.op_type in target.rules.linear, target.rules.weight_types
        if kernel and type_bits(kind) == 8 and kind not in allowed:
            yield f"{node.name}: its weight is read as {kind}, not {' or '.join(sorted(allowed))}"


def _bias(file: QuantizedFile, target: Target) -> Iterator[str]:
    for node, _, integer in file.layers():
        has_bias = integer and len(node.input) > 2 and node.op_type in LINEAR_OPS
        maker = file.tensors.makers.get(node.input[2]) if has_bias else None
        if maker is not None and maker.op_type == "DequantizeLinear" and target.rules.bias != "int32":
            yield f"{node.name}: its bias is int32 behind a DequantizeLinear, not float"


def _float_outputs(file: QuantizedFile, target: Target) -> Iterator[str]:
    for node, _, integer in file.layers():
        if integer and node.output[0] in file.outputs and node.op_type not in target.rules.float_outputs:
            yield f"{node.name}: it reads integers and writes a float output of the graph"


def _fused_adds(file: QuantizedFile, target: Target) -> Iterator[str]:
    convolutions = {node.output[0]: node for node, _, integer in file.layers() if integer and node.op_type == "Conv"}
    for node in file.tensors.nodes if target.rules.fused_adds else ():
        if node.op_type != "Add" or any(name in file.tensors.constants for name in node.input):
            continue
        sources = [_source(file, name) for name in node.input]
        convolved = [name for name in sources if name in convolutions]
        if convolved and all(file.dequantized(name) for name in node.input):
            convolution = convolutions[convolved[0]].name
            yield f"{node.name}: every operand is quantized, so it cannot be fused into {convolution}"
        elif convolved and not any(file.dequantized(name) for name in node.input):
            yield f"{node.name}: no operand is quantized; the one beside the convolution has to be"


def _matmulnbits(file: QuantizedFile, target: Target) -> Iterator[str]:
    for node in file.tensors.nodes:
        if node.op_type in {"MatMulNBits", "DynamicQuantizeLSTM"} and not target.matmulnbits:
            yield f"{node.name}: the target does not run {node.op_type}"


def _floats_only(file: QuantizedFile, target: Target) -> Iterator[str]:
    for node in file.tensors.nodes if target.floats_only else ():
        if node.op_type in _QUANTIZED or node.op_type.startswith("QLinear"):
            yield f"{node.name}: {node.op_type}, and {target.floats_only}"


def _sparsity(file: QuantizedFile, target: Target) -> Iterator[str]:
    """A layer that was pruned in the target's pattern has it. Others run as if all their weights were there."""
    patterns = pruned_patterns(file.model)
    for node, weight, _ in file.layers():
        present = nonzeros(weight, file.tensors) if patterns.get(node.name) == target.sparsity != "" else None
        if present is None:
            continue
        n, m = (int(part) for part in target.sparsity.split(":"))
        by_input = np.moveaxis(present, _input_axis(node), -1)
        if by_input.shape[-1] % m:
            yield f"{node.name}: pruned {target.sparsity}, but {m} does not divide its {by_input.shape[-1]} inputs"
            continue
        groups = by_input.reshape(-1, m).sum(axis=1)
        if excess := int((groups > n).sum()):
            yield (
                f"{node.name}: pruned {target.sparsity}, but {excess:,} of {groups.size:,} groups of {m} neighbouring "
                f"input channels have more than {n} weights that are not zero"
            )


def _input_axis(node: NodeProto) -> int:
    """Axis of the input channels in the weight that the operator reads."""
    if node.op_type == "Conv":
        return 1
    return 1 if int_attribute(node, "transB", 0) else 0


def _source(file: QuantizedFile, name: str) -> str:
    """The computed tensor behind QuantizeLinear and DequantizeLinear."""
    maker = file.tensors.makers.get(name)
    while maker is not None and maker.op_type in {"QuantizeLinear", "DequantizeLinear"}:
        name = maker.input[0]
        maker = file.tensors.makers.get(name)
    return name


def _codes(tensor: TensorProto) -> np.ndarray:
    return numpy_helper.to_array(tensor).astype(np.int32)


RULES: tuple[Rule, ...] = (
    Rule("opset", _opset),
    Rule("static_shapes", _static_shapes),
    Rule("signed", _signed),
    Rule("activation_bits", _activation_bits),
    Rule("wide_ranges", _wide_ranges),
    Rule("symmetric", _symmetric),
    Rule("weight_zero_points", _weight_zero_points),
    Rule("narrowest", _narrowest),
    Rule("int4", _int4),
    Rule("weight_only", _weight_only),
    Rule("no_float", _no_float),
    Rule("linear", _linear),
    Rule("compute", _compute),
    Rule("moving", _moving),
    Rule("absorbable", _absorbable),
    Rule("conv_dims", _conv_dims),
    Rule("channel_axes", _channel_axes),
    Rule("weight_types", _weight_types),
    Rule("bias", _bias),
    Rule("float_outputs", _float_outputs),
    Rule("fused_adds", _fused_adds),
    Rule("matmulnbits", _matmulnbits),
    Rule("floats_only", _floats_only),
    Rule("sparsity", _sparsity),
)


def violations(model: onnx.ModelProto | Path, target: Target) -> tuple[Violation, ...]:
    """Everything in the file that violates the target's facts, each sentence once.

    Raises:
        ModelError: There is no such file, or it is not an ONNX file.
    """
    file = QuantizedFile(read_whole_onnx(model) if isinstance(model, Path) else model)
    return tuple(
        Violation(rule.fact, what, target.sources[rule.fact])
        for rule in RULES
        for what in dict.fromkeys(rule.check(file, target))
    )
