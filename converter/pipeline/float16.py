"""Floats of a file as float16: computed in float16 where the target has kernels, and stored so where it has none."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from converter.model_io.narrow_floats import LARGEST, compute_in_float16, store_as_float16
from converter.model_io.tensor_types import inferred_types
from converter.pipeline.result import LayerReport
from converter.qdq.stored_weights import Tensors
from converter.runtime.few_samples import Feeds
from converter.runtime.runner import Runner
from converter.targets.target import Target
from passes.ir.model import Model
from passes.weights.float16 import FLOAT16

__all__ = ["as_float16", "narrowed"]

_FLOAT = 32
_ROOM = 4.0  # values of other samples may be larger by this factor
_NAMED = 3  # reasons in a note


def narrowed(
    quantized: onnx.ModelProto, work: Model, target: Target, samples: Sequence[Feeds], *, whole: bool
) -> tuple[str, dict[str, Any]]:
    """Turn the floats of a file into float16, in place.

    Args:
        quantized: The file.
        work: The model after all passes.
        target: Its target.
        samples: Inputs of runs that show how large values become.
        whole: Whether the recipe quantizes nothing, so that an excluded layer stays in float32.

    Returns:
        What was done, in words, and the facts for the file's metadata.
    """
    if target.float16 == "store":
        saved = store_as_float16(quantized)
        note = f"the target computes in float32; constants are stored as float16, {saved:,} bytes less"
        return note, {"form": "store", "done": note}
    kept = {name: why for name, why in work.float_reasons.items() if whole and why != FLOAT16}
    reasons = compute_in_float16(quantized, kept, _large_values(quantized, samples))
    note = _in_words(reasons)
    return note, {"form": "compute", "float32": reasons, "done": note}


def as_float16(layers: Sequence[LayerReport], quantized: onnx.ModelProto) -> tuple[LayerReport, ...]:
    """Return the reports with 16 bits for every float layer whose weight the file has as float16."""
    tensors = Tensors.of(quantized.graph)
    weights = {node.name: node.input[1] for node in tensors.nodes if len(node.input) > 1}
    halves = {name for name, tensor in tensors.constants.items() if tensor.data_type == TensorProto.FLOAT16}
    result = []
    for layer in layers:
        weight = weights.get(layer.name, "")
        maker = tensors.makers.get(weight)
        if layer.bits == _FLOAT and weight in halves:
            layer = dataclasses.replace(layer, bits=16, stored_bits=16, activation_bits=16)
        elif layer.bits == _FLOAT and maker is not None and maker.op_type == "Cast" and maker.input[0] in halves:
            layer = dataclasses.replace(layer, bits=16, stored_bits=16)
        result.append(layer)
    return tuple(result)


def _in_words(reasons: Mapping[str, str]) -> str:
    if not reasons:
        return "every float node computes in float16"
    counted = Counter(reasons.values()).most_common()
    named = "; ".join(f"{count}: {why}" for why, count in counted[:_NAMED])
    more = f"; {sum(count for _, count in counted[_NAMED:])} for other reasons" if len(counted) > _NAMED else ""
    return f"{len(reasons)} node{'s' * (len(reasons) != 1)} in float32: {named}{more}"


def _large_values(model: onnx.ModelProto, samples: Sequence[Feeds]) -> dict[str, float]:
    """Return the largest magnitude of every float tensor whose values, with some room, do not fit float16."""
    types = inferred_types(model)
    floats = [name for node in model.graph.node for name in node.output]
    floats = [name for name in floats if name in types and types[name].tensor_type.elem_type == TensorProto.FLOAT]
    if not samples or not floats:
        return {}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in floats)
    runner, largest = Runner(watched, "the file", keep=False), dict.fromkeys(floats, 0.0)
    for feeds in samples:
        for name, values in zip(floats, runner.execute(runner.inputs(feeds)), strict=True):
            most = float(np.abs(values[np.isfinite(values)]).max(initial=0))  # masks are infinite beside large values
            largest[name] = max(largest[name], most)
    return {name: most for name, most in largest.items() if most * _ROOM > LARGEST}
