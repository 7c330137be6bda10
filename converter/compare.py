"""Where a quantized model goes wrong: the SQNR of every tensor that it shares with its float reference.

Quantizing an activation `T` makes `T -> QuantizeLinear -> DequantizeLinear`, whatever those two call what they write.
So `T` is matched with what comes out, which carries the rounding of the activation too, or else with a tensor that is
still called `T`. A tensor absorbed by a fusion (the output of a Conv before its Relu) has no match and is listed so.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.data import Batch, Dataset
from converter.json_values import finite
from converter.load import read_whole_onnx
from converter.runner import Runner, class_scores
from converter.runtime import Progress
from passes.errors import ModelError
from passes.numerics.error import SqnrSum

__all__ = ["Comparison", "LayerError", "compare"]

_BATCH = 4  # every activation of two models is alive at once
_FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")


@dataclass(frozen=True)
class LayerError:
    """One matched tensor: the node that computes it in the reference, its name there, and the SQNR in dB."""

    layer: str
    op: str
    tensor: str
    sqnr_db: float


@dataclass(frozen=True)
class Comparison:
    """A quantized model against its reference.

    layers      every matched tensor, in the order of the reference's graph
    unmatched   the reference's tensors without a counterpart
    agreement   fraction of images with the same highest score; None unless the first output is [n, classes]
    sqnr_db     of the first output, of the model as it is deployed
    """

    reference: str
    model: str
    images: int
    layers: tuple[LayerError, ...]
    unmatched: tuple[str, ...]
    agreement: float | None
    sqnr_db: float

    def to_json(self) -> dict[str, Any]:
        """The same as values JSON can hold: an infinite SQNR (no difference at all) becomes null."""
        values: dict[str, Any] = finite(asdict(self))
        return values


@dataclass(frozen=True)
class _Match:
    layer: str
    op: str
    tensor: str
    other: str


def compare(
    reference: onnx.ModelProto | Path,
    model: Path,
    data: Dataset,
    *,
    names: tuple[str, str] | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Run both models on all of `data`, with every tensor they share as an extra output; `names` are theirs.

    End-to-end figures come from the model file as it is: extra outputs can keep onnxruntime from fusing.

    Raises ModelError, naming the model, for one that cannot be loaded or run, or that has outputs of another shape.
    """
    float_name = "reference" if isinstance(reference, onnx.ModelProto) else str(reference)
    float_name, name = (float_name, str(model)) if names is None else names
    float_model, other_model = _load(reference), _load(model)
    matches, unmatched = _match(float_model.graph, other_model.graph)
    expected = _Tap(float_model, float_name, [match.tensor for match in matches])
    found = _Tap(other_model, name, [match.other for match in matches])
    matches = [match for match in matches if match.tensor in expected.floats and match.other in found.floats]
    deployed = Runner(model, name)

    sums = {match.tensor: SqnrSum() for match in matches}
    total, agreed, classifier, done = SqnrSum(), 0, True, 0
    for batch in data.batches(_BATCH):
        wanted, tensors = expected.run(batch)
        given = deployed.run(batch.feeds, batch.count)[0]
        if wanted.shape != given.shape:
            raise ModelError(
                f"{name}: first output is {list(given.shape)}, {float_name} gives {list(wanted.shape)}; "
                "compare models of one kind"
            )
        total.update(wanted, given)
        scores = class_scores(wanted), class_scores(given)
        if scores[0] is None or scores[1] is None:
            classifier = False
        else:
            agreed += int((scores[0].argmax(axis=1) == scores[1].argmax(axis=1)).sum())
        _, others = found.run(batch)
        for match in matches:
            left, right = tensors[match.tensor], others[match.other]
            if left.shape == right.shape and match.tensor in sums:
                sums[match.tensor].update(left, right)
            else:  # the same name for another thing
                sums.pop(match.tensor, None)
        done += batch.count
        if progress is not None:
            progress("comparing", done, len(data))

    layers = tuple(
        LayerError(match.layer, match.op, match.tensor, sums[match.tensor].db)
        for match in matches
        if match.tensor in sums
    )
    unmatched += [match.tensor for match in matches if match.tensor not in sums]
    agreement = agreed / done if classifier else None
    return Comparison(float_name, name, done, layers, tuple(unmatched), agreement, total.db)


class _Tap:
    """A model with some of its tensors, inputs among them, as further outputs; `floats` are those of a float type."""

    def __init__(self, model: onnx.ModelProto, name: str, tensors: Sequence[str]) -> None:
        first = model.graph.output[0].name
        inputs = {value.name for value in model.graph.input}
        present = {value.name for value in model.graph.output}
        extra = [tensor for tensor in dict.fromkeys(tensors) if tensor not in present | inputs]
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(tensor) for tensor in extra)
        self._runner = Runner(model, name)
        self._inputs = inputs & set(tensors)
        types = self._runner.types
        self.floats = {spec.name for spec in self._runner.specs if np.issubdtype(spec.dtype, np.floating)}
        self.floats |= {tensor for tensor in tensors if types.get(tensor) in _FLOATS}
        self._runner.outputs = list(dict.fromkeys([first, *(tensor for tensor in tensors if tensor in types)]))

    def run(self, batch: Batch) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        """The model's first output, and the tensors by name."""
        outputs = self._runner.run(batch.feeds, batch.count)
        feeds = self._runner.inputs(batch.feeds)
        tensors = dict(zip(self._runner.outputs, outputs, strict=True))
        return outputs[0], tensors | {name: feeds[name][: batch.count] for name in self._inputs}


def _load(model: onnx.ModelProto | Path) -> onnx.ModelProto:
    if isinstance(model, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy
    return read_whole_onnx(model)


def _match(reference: onnx.GraphProto, other: onnx.GraphProto) -> tuple[list[_Match], list[str]]:
    """Tensors of the reference, in graph order, with the tensor of `other` that stands for each, and those without.

    Constants, and what is computed from constants alone, are left out.
    """
    there = {name for node in other.node for name in node.output if name}
    rounded = _dequantized(other)
    fixed = {tensor.name for tensor in reference.initializer}
    live = [value.name for value in reference.input if value.name not in fixed]
    matches = [_Match(name, "Input", name, rounded[name]) for name in live if name in rounded]
    unmatched = []
    reached = set(live)
    for node in reference.node:
        if reached.isdisjoint(node.input):
            continue
        for tensor in filter(None, node.output):
            reached.add(tensor)
            if tensor in there:
                matches.append(_Match(node.name or tensor, node.op_type, tensor, rounded.get(tensor, tensor)))
            else:
                unmatched.append(tensor)
    return matches, unmatched


def _dequantized(graph: onnx.GraphProto) -> dict[str, str]:
    """By float tensor: what a DequantizeLinear makes of the codes that a QuantizeLinear made of it."""
    sources = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    found: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in sources:
            found.setdefault(sources[node.input[0]], node.output[0])
    return found
