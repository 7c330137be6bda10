"""What a model chooses: the best cells of a detector, the boxes that are kept.

Two scores that differ in the last digit change places, and with them whole rows of the outputs. So the outputs of two
models say how near they are only if both make the same choice. The float model's choice is given to the other one: the
indices that NonMaxSuppression or TopK compute become inputs.

A choice that depends on no layer, such as the last token of a text, is the same in every file, and no choice here.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper

from converter.model_io.load import read_whole_onnx
from converter.model_io.protobuf import copy_fields, is_default_domain
from converter.model_io.structure import read_structure
from converter.runtime.few_samples import Feeds
from converter.runtime.runner import Runner
from passes.ir.fresh_name import fresh_name
from passes.ir.linear import LINEAR_OPS

__all__ = ["SameChoice", "chosen_tensors", "same_choice"]

_CHOOSING = {"NonMaxSuppression": 0, "NonZero": 0, "ArgMax": 0, "ArgMin": 0, "TopK": 1}
"""Operators that choose, and the first of their outputs that jumps, an int64. The values of a TopK do not jump."""


def chosen_tensors(graph: onnx.GraphProto) -> dict[str, str]:
    """Return the tensors that say what is chosen, and the tensor that each is chosen from.

    Args:
        graph: The graph, sorted. Bodies of control flow are not searched.
    """
    constant = {tensor.name for tensor in graph.initializer}
    layered: set[str] = set()  # depends on a layer
    chosen: dict[str, str] = {}
    for node in graph.node:
        reads = list(filter(None, node.input))
        if constant.issuperset(reads):
            constant.update(node.output)
            continue
        changing = [name for name in reads if name in layered]
        first = _CHOOSING.get(node.op_type) if is_default_domain(node.domain) else None
        if changing and first is not None:
            chosen |= dict.fromkeys(filter(None, node.output[first:]), changing[-1])
        if changing or (node.op_type in LINEAR_OPS and len(node.input) > 1 and node.input[1] in constant):
            layered.update(node.output)
    return chosen


@dataclass(frozen=True)
class SameChoice:
    """Two models that make the same choice.

    Attributes:
        model: The model, in which what it chooses is an input.
        reference: The float model.
        feeds: Inputs of the runs, with what the float model chooses. The float model needs none of it.

    Both have the same outputs: those of the float model, and in the place of one that says what is chosen the tensor
    from which it is.
    """

    model: onnx.ModelProto
    reference: onnx.ModelProto
    feeds: list[Feeds]


def same_choice(model: onnx.ModelProto, reference: Path | onnx.ModelProto, feeds: Sequence[Feeds]) -> SameChoice | None:
    """Let a model make the choice that the float model makes.

    Args:
        model: The model. It does not change.
        reference: The float model.
        feeds: Inputs of runs.

    Returns:
        Both models. None if the float model chooses nothing, or the other one does not compute all of the tensors.

    Raises:
        ModelError: The float model cannot be loaded or run.
    """
    chosen = chosen_tensors((read_structure(reference) if isinstance(reference, Path) else reference).graph)
    computed = {name for node in model.graph.node for name in node.output}
    if not feeds or not chosen or not computed.issuperset(chosen):
        return None
    source = read_whole_onnx(reference) if isinstance(reference, Path) else reference
    names = list(chosen)
    runner = Runner(_returning(source, names), "the float model", outputs=names)
    choices = [dict(zip(names, runner.execute(runner.inputs(feed)), strict=True)) for feed in feeds]
    own = [value.name for value in source.graph.output]
    outputs = list(dict.fromkeys(chosen[name] if chosen.get(name) in computed else name for name in own))
    rounded = _rounded(model.graph)
    changed = _returning(model, [name if name in own else rounded.get(name, name) for name in outputs])
    _make_inputs(changed.graph, choices[0])
    both = [feed | choice for feed, choice in zip(feeds, choices, strict=True)]
    return SameChoice(changed, _returning(source, outputs), both)


def _make_inputs(graph: onnx.GraphProto, choices: Mapping[str, NDArray[Any]]) -> None:
    """Make tensors inputs of a graph. What computed them writes others, that nothing reads."""
    taken = {name for node in graph.node for name in [*node.input, *node.output]}
    unread = {name: fresh_name(f"{name}_chosen", taken) for name in choices}
    nodes = []
    for node in graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.output[:] = [unread.get(name, name) for name in node.output]
        nodes.append(copy)
    graph.ClearField("node")
    graph.node.extend(nodes)
    for name, values in choices.items():
        axes = [f"{name}_{axis}" for axis in range(values.ndim)]
        graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.INT64, axes))


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
