"""Error of the outputs when one weight, or one activation, of a network is rounded and everything else is exact.

Rounding errors of different tensors are nearly independent, so the error powers add up to about that of the whole file.
The sum is scaled to the measured error of the file where one is known (`converter.error_sources.choose`).
"""

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import onnx_graphsurgeon as gs

from converter.engine.engine import Engine, InProcess
from converter.engine.shelf import Item, Shelf
from converter.error_sources.switched_network import SwitchedNetwork
from converter.runtime.few_samples import Feeds
from converter.runtime.output_errors import Outputs, output_errors
from converter.runtime.session import Progress, no_progress
from passes.activations.placement import clamp_bounds, scale_factor
from passes.errors import QuantizationError
from passes.ir.linear import LINEAR_OPS
from passes.ir.model import Model
from passes.ir.recurrent import tied_recurrent
from passes.ir.ties import tied_layers

__all__ = ["ErrorSource", "measure"]

Kind = Literal["weight", "activation"]


@dataclass(frozen=True)
class ErrorSource:
    """A weight or an activation that is rounded.

    Attributes:
        kind: "weight" or "activation".
        names: Layers that have this weight, or tensors that have this grid because they have the same values.
        nodes: Nodes that run in float if this is not rounded.
        bits: Bits of the codes.
        sqnr_db: SQNR in dB of every output or of its parts, by name, if only this is rounded. inf: it does not change.
    """

    kind: Kind
    names: tuple[str, ...]
    nodes: tuple[str, ...]
    bits: int
    sqnr_db: Mapping[str, float]

    @property
    def name(self) -> str:
        """The first of the names."""
        return self.names[0]

    @property
    def worst_db(self) -> float:
        """SQNR of the output that loses most, in dB."""
        return min(self.sqnr_db.values(), default=math.inf)

    def to_json(self) -> dict[str, Any]:
        """Return every field as a value of Python's json, which knows Infinity."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ErrorSource":
        """Return the source that `to_json` made these values of."""
        names, nodes = tuple(values["names"]), tuple(values["nodes"])
        return cls(values["kind"], names, nodes, values["bits"], dict(values["sqnr_db"]))

    def noise(self, output: str) -> float:
        """Return the error power of an output relative to its own power."""
        return 10 ** (-self.sqnr_db.get(output, math.inf) / 10)


def measure(
    model: Model,
    samples: Sequence[Feeds],
    progress: Progress = no_progress,
    *,
    within: float = math.inf,
    engine: Engine = InProcess(),  # noqa: B008  (it has no state)
) -> tuple[ErrorSource, ...]:
    """Round every weight and every activation of a quantized model alone, and measure what the outputs lose.

    Args:
        model: The model after all passes of a recipe.
        samples: Inputs of runs.
        progress: Called with "sensitivity", the number of tensors that are done, and the number of all.
        within: Seconds. Fewer samples are used if all of them are expected to take longer.
        engine: Where the roundings are measured, each on its own.

    Returns:
        The sources, the one that costs most first. Empty if one sample is expected to take longer than ``within``.

    Raises:
        ModelError: The network does not run.
    """
    groups, ties = _groups(model), tied_layers(model.layers()[name] for name in model.quantized)
    weights = [ties.get(name, (name,)) for name in model.quantized if ties.get(name, (name,))[0] == name]
    recurrent = model.recurrent_layers()
    weights += tied_recurrent(recurrent[name] for name in model.recurrent)
    if not samples or not (groups or weights):
        return ()
    network = SwitchedNetwork(model, groups, samples, travels=engine.workers > 1)
    started = time.monotonic()
    expected = [network.run(feeds) for feeds in network.samples]
    total = len(groups) + len(weights)
    one = (time.monotonic() - started) / len(expected) * total  # seconds of one sample
    judging = network.samples if one * len(expected) <= within else network.samples[: int(within / one)]
    if not judging:
        return ()
    shelf = engine.shelf
    item = shelf.put(_Judged(network, tuple(judging), tuple(expected[: len(judging)])))
    tasks = [_Rounding(shelf, item, groups=(index,)) for index in range(len(groups))]
    tasks += [_Rounding(shelf, item, layers=layers) for layers in weights]
    errors: dict[int, dict[str, float]] = {}
    for index, found in engine.results(_errors, tasks, _lost):
        errors[index] = found
        progress("sensitivity", len(errors), total)
    sources = [
        ErrorSource("activation", tuple(tensors), _touching(model, tensors), _bits(model, tensors), errors[index])
        for index, tensors in enumerate(groups)
    ]
    for index, layers in enumerate(weights, start=len(groups)):
        bits = _weight_bits(model, layers[0])
        sources.append(ErrorSource("weight", tuple(layers), tuple(layers), bits, errors[index]))
    return tuple(sorted(sources, key=lambda source: source.worst_db))


def _weight_bits(model: Model, name: str) -> int:
    if name in model.quantized:
        return model.quantized[name].grid.bits
    return max(part.grid.bits for part in model.recurrent[name].weights)


def _bits(model: Model, tensors: Collection[str]) -> int:
    return min(model.activation_qparams[name].bits for name in tensors)


@dataclass(frozen=True)
class _Judged:
    """A network with the samples that judge, and its outputs for them."""

    network: SwitchedNetwork
    samples: tuple[Feeds, ...]
    expected: tuple[Outputs, ...]


@dataclass(frozen=True)
class _Rounding:
    """What is rounded alone: groups of activations or layers, in the network of an item."""

    shelf: Shelf
    item: Item
    groups: tuple[int, ...] = ()
    layers: tuple[str, ...] = ()


def _errors(task: _Rounding) -> dict[str, float]:
    """Return the SQNR of every output with one rounding."""
    judged: _Judged = task.shelf.kept(task.item)
    network = judged.network
    runs = [network.run(feeds, task.groups, task.layers) for feeds in judged.samples]
    return output_errors(judged.expected, runs, network.outputs, network.joined)


def _lost(task: _Rounding, reason: str) -> Any:
    raise QuantizationError(f"rounding {', '.join(task.layers) or 'an activation'} alone: {reason}")


def _groups(model: Model) -> list[list[str]]:
    """Return the quantized activations. Those with the same values, or a multiple of them, are in one group."""
    group_of: dict[str, list[str]] = {}
    groups: list[list[str]] = []

    def add(name: str, source: str | None) -> None:
        group = group_of.get(source) if source is not None else None
        if group is None:
            group = []
            groups.append(group)
        group.append(name)
        group_of[name] = group

    for tensor in model.graph.inputs:
        if tensor.name in model.activation_qparams:
            add(str(tensor.name), None)
    for node in model.graph.nodes:
        source = _copied(node, model)
        for tensor in node.outputs:
            if tensor.name in model.activation_qparams:
                add(str(tensor.name), source)
    return groups


def _copied(node: gs.Node, model: Model) -> str | None:
    """Return the input whose values a node passes on, or multiplies by a scalar. None for other nodes."""
    if node.op not in model.rules.moving and node.op != "Identity" and scale_factor(node) is None:
        return None
    data = [tensor.name for tensor in node.inputs if not isinstance(tensor, gs.Constant)]
    return str(data[0]) if data else None


def _touching(model: Model, tensors: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the nodes on integers that write or read some tensors, or whose clamps write them."""
    rounded, rules, nodes = set(tensors), model.rules, list[gs.Node]()
    for node in model.graph.nodes:
        written = any(tensor.name in rounded for tensor in node.outputs)
        if written or any(tensor.name in rounded for tensor in node.inputs):
            nodes.append(node)
        if written and clamp_bounds(node) is not None and node.inputs[0].name not in model.activation_qparams:
            nodes += node.inputs[0].inputs
    integer = LINEAR_OPS | rules.compute | rules.moving | rules.absorbable
    able = (str(node.name) for node in nodes if node.op in integer or scale_factor(node) is not None)
    return tuple(dict.fromkeys(able))
