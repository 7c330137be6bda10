"""What a model chooses from, where its outputs depend on a choice: the best cells of a detector, the boxes kept.

Two scores that differ in the last digit change places, and with them whole rows of the outputs. So such an output says
little about how exact a model is. The tensors from which it chooses say it.

A choice that depends on no layer, such as the last token of a text, is the same in every file, and no choice here. An
output with a layer behind the choice is compared as it is, because nothing else shows what this layer loses.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import helper

from converter.model_io.load import read_onnx, read_whole_onnx
from converter.model_io.protobuf import copy_fields, is_default_domain
from passes.ir.linear import LINEAR_OPS

__all__ = ["Choices", "before_choices", "find_choices"]

_CHOOSING = {"NonMaxSuppression": 0, "NonZero": 0, "ArgMax": 0, "ArgMin": 0, "TopK": 1}
"""Operators that choose, and the first of their outputs that jumps. The values of a TopK do not."""


@dataclass(frozen=True)
class Choices:
    """The choices of a graph.

    Attributes:
        outputs: Outputs of the graph that depend on a choice, with no layer behind it.
        unsteady: All outputs that depend on a choice.
        sources: Tensors that depend on no choice, and from which something is chosen or computed with what was.
    """

    outputs: frozenset[str]
    unsteady: frozenset[str]
    sources: tuple[str, ...]


def find_choices(graph: onnx.GraphProto) -> Choices:
    """Find what depends on a choice in a sorted graph. Bodies of control flow are not searched."""
    constant = {tensor.name for tensor in graph.initializer}
    layered: set[str] = set()  # depends on a layer
    chosen: set[str] = set()  # depends on a choice
    behind: set[str] = set()  # depends on a layer that depends on a choice
    sources: dict[str, None] = {}
    for node in graph.node:
        reads = set(filter(None, node.input))
        if reads <= constant:
            constant.update(node.output)
            continue
        is_layer = node.op_type in LINEAR_OPS and len(node.input) > 1 and node.input[1] in constant
        first = _CHOOSING.get(node.op_type) if is_default_domain(node.domain) and reads & layered else None
        depends = bool(reads & chosen)
        if depends or first is not None:
            chosen.update(filter(None, node.output if depends else node.output[first:]))
            sources |= dict.fromkeys(name for name in node.input if name in layered and name not in chosen)
        if reads & behind or (is_layer and depends):
            behind.update(node.output)
        if is_layer or reads & layered:
            layered.update(node.output)
    unsteady = frozenset(value.name for value in graph.output if value.name in chosen)
    outputs = unsteady - behind
    return Choices(outputs, unsteady, tuple(sources) if outputs else ())


def before_choices(
    quantized: onnx.ModelProto, reference: Path | onnx.ModelProto
) -> tuple[onnx.ModelProto, onnx.ModelProto] | None:
    """Return both models with the tensors that they choose from instead of the outputs that depend on a choice.

    Args:
        quantized: The quantized model.
        reference: The float model.

    Returns:
        The quantized and the float model, with as many outputs in the same order. None if no output depends on a
        choice.
    """
    graph = (read_onnx(reference) if isinstance(reference, Path) else reference).graph
    choices = find_choices(graph)
    written = {name for node in quantized.graph.node for name in node.output}
    rounded = _rounded(quantized.graph)
    pairs = {name: rounded.get(name, name) for name in choices.sources if name in written}
    if not pairs:
        return None
    source = read_whole_onnx(reference) if isinstance(reference, Path) else reference
    kept = [value.name for value in graph.output if value.name not in choices.outputs]
    floats, integers = [*kept, *pairs], [*kept, *pairs.values()]
    return _returning(quantized, integers), _returning(source, floats)


def _rounded(graph: onnx.GraphProto) -> dict[str, str]:
    """Return the dequantized tensor of every quantized one, so that its integer kernel stays."""
    codes = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    values = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return {name: values[code] for name, code in codes.items() if code in values}


def _returning(model: onnx.ModelProto, outputs: Collection[str]) -> onnx.ModelProto:
    """Return a copy of the model with other outputs."""
    copy = onnx.ModelProto()
    copy_fields(model, copy, skip={"graph"})
    copy_fields(model.graph, copy.graph, skip={"output"})
    own = {value.name: value for value in model.graph.output}
    copy.graph.output.extend(own.get(name) or helper.make_empty_tensor_value_info(name) for name in outputs)
    return copy
