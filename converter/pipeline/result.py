"""Result of a conversion: the model, a report of every layer, and the measurements."""

import contextlib
import dataclasses
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from converter.data.any_size import with_any_size
from converter.display.numbers import decibels, ratio, size
from converter.display.overview import Glance, Overview
from converter.evaluation.evaluate import Evaluation
from converter.model_io.save import save_onnx
from converter.model_io.sizes import serialized_bytes
from converter.pipeline.footprint import Step
from converter.pipeline.given import Given
from converter.pipeline.mending import Mending
from converter.pipeline.search_record import Search
from converter.pipeline.settings import Settings
from converter.pipeline.trial_run import Fidelity
from converter.pipeline.verdict.answer import Verdict
from converter.pipeline.verdict.judge import Known, judge
from converter.qdq.class_index import with_class_index
from converter.qdq.dynamic_lstm import is_dynamic_lstm
from converter.qdq.layer_forms import bits_in_file, multiplies_integers, recurrent_bits_in_file, runs_on_integers
from converter.qdq.pruned import KEY as PRUNED_KEY
from converter.qdq.weights import Storage
from converter.recipes.builtin import text_to_store
from converter.recipes.recipe import Recipe
from converter.runtime.latency import Latencies
from converter.speed.search import Speed
from converter.targets.catalog import find_target
from passes.graph.embeddings import Embeddings
from passes.ir.bodies import inner_nodes
from passes.ir.linear import LINEAR_OPS, RECURRENT_OPS, Linear, refused_layers
from passes.ir.model import Model
from passes.ir.recurrent import Recurrent
from passes.numerics.distribution import Distribution, distribution
from passes.report import Change, PassReport, TakenChannels

__all__ = ["LayerReport", "Result", "layer_reports", "mean_file_bits", "numeric_versions", "stamp", "versions"]

_MULTIPLE_BITS = 4
_FLOAT = 32  # bits of weights and activations in float
_SMALL = 2**17  # weights of a network, above which the text of a recipe is less than 1 % of a file
_PACKAGES = ("convert-onnx", "onnx", "onnxruntime", "onnx-graphsurgeon", "numpy")


@dataclass(frozen=True)
class LayerReport:
    """Report of one Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU or RNN.

    Attributes:
        name, op: Name and operator of the node.
        shape: Shape of the stored weight. For an LSTM, GRU or RNN, that of its two weights side by side.
        bits: Bits of the weight's grid. 32 if the layer stayed in float.
        stored_bits: Bits that a weight takes in the file.
        granularity: Weights that share a scale: "channel" or "block 32". Of two weights "block 8 and block 12".
        activation_bits: Bits of the layer's input.
        before_db: SQNR of plain rounding, or SQNR before the last pass that refined the layer.
        after_db: SQNR of the layer as written.
        note: Other changes by the passes.
        reason: Why the layer stayed in float.
        weights: Distribution of the weights before rounding, folded and rescaled, and as written. None in float.
        multiples: Number of multiples of channel scales that are stored beside the codes, at 4 bits each.
        pattern: Pattern in which a pass removed weights, such as "unstructured" or "2:4". Empty if it removed none. The
            share of zeros is `Distribution.zeros`.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    bits: int
    stored_bits: int
    granularity: str
    activation_bits: int
    before_db: float | None
    after_db: float | None
    note: str
    reason: str
    weights: Distribution | None = None
    multiples: int = 0
    pattern: str = ""

    @property
    def zeros(self) -> float | None:
        """Share of the weights that are zero in the file. None in float."""
        return None if self.weights is None else self.weights.zeros

    @property
    def file_bits(self) -> float:
        """Bits that all weights of the layer take in the file, multiples included."""
        return math.prod(self.shape) * self.stored_bits + _MULTIPLE_BITS * self.multiples


@dataclass(frozen=True, repr=False)
class Result(Overview):
    """A finished conversion.

    Attributes:
        model: The quantized ONNX model. It is checked and has its provenance in metadata_props.
        reference: The float model. If the given model was quantized, the floats that its codes stand for.
        recipe: The recipe with all overrides of the call.
        target: Name of the target.
        layers: Reports of the layers. Every linear layer is in it once.
        passes: Reports of the passes.
        metrics: Size, accuracy and latency before and after, if evaluation data were given.
        calibration: Source, number, digest and preprocessing of the images that calibrated, if there were any.
        seconds: Duration of the whole conversion.
        training: Source, number, digest and preprocessing of the training images and the number held out, if a pass
            trained.
        steps: Time and memory of every step.
        search: Record of the search, if a budget was given.
        fidelity: Distance from float on a few samples, if possible on some that did not calibrate. Without data, on
            noise. None if the model takes open sizes and there were no samples.
        latency: Latencies of the given model and of the file, if timed. With evaluation data they are in `metrics`,
            unless the given model is quantized.
        mending: How the file reached `Settings.min_sqnr`, if one was given.
        speed: Speed measurements that decided which activations stay in float, if they were requested.
        given: The model that the caller gave, which size and speed are compared with. None: `reference`.
    """

    model: onnx.ModelProto
    reference: onnx.ModelProto
    recipe: Recipe
    target: str
    layers: tuple[LayerReport, ...]
    passes: tuple[PassReport, ...]
    metrics: Evaluation | None
    calibration: Mapping[str, Any] | None
    seconds: float
    training: Mapping[str, Any] | None = None
    steps: tuple[Step, ...] = ()
    search: Search | None = None
    speed: Speed | None = None
    fidelity: Fidelity | None = None
    latency: Latencies | None = None
    mending: Mending | None = None
    given: Given | None = None

    @property
    def learning(self) -> tuple[str, ...]:
        """Outcome of every pass that learns by gradient, one line each."""
        learned = {step.name for step in self.recipe.passes if step.device is not None}
        return tuple(f"{report.name}: {'; '.join(report.notes)}" for report in self.passes if report.name in learned)

    @property
    def embeddings(self) -> tuple[str, ...]:
        """What became of each embedding table, one line each."""
        return next((report.notes for report in self.passes if report.name == Embeddings.name), ())

    @property
    def taken(self) -> TakenChannels | None:
        """Channels that were taken out of the network. None if no pass takes channels."""
        return next((report.taken for report in self.passes if report.taken is not None), None)

    @property
    def float16(self) -> str:
        """What was done to write floats as float16, in words. Empty: it was not asked for."""
        facts = next((entry.value for entry in self.model.metadata_props if entry.key == "convert_onnx.float16"), None)
        return "" if facts is None else str(json.loads(facts)["done"])

    def deployed(self, settings: Settings) -> "Result":
        """Return the conversion with the input and output that the settings ask for. All measurements are without."""
        model = with_any_size(self.model) if settings.embed_resize else self.model
        return dataclasses.replace(self, model=with_class_index(model) if settings.class_index else model)

    def save(self, path: str | Path) -> None:
        """Write the model. An existing file is replaced only after the new file has been checked and loaded.

        Raises:
            OutputError: The file cannot be written.
        """
        save_onnx(self.model, Path(path), keep_int8=find_target(self.target).rules.signed)

    def verdict(self, before: int | None = None, after: int | None = None) -> Verdict:
        """Judge the file: is it accurate enough, smaller, faster here, and what to try next.

        Args:
            before: Bytes of the given model. The default is the size of `given`.
            after: Bytes of the file. The default is the size of `model`.
        """
        given = self.given or Given(self.reference)
        return judge(
            self.recipe,
            find_target(self.target),
            metrics=self.metrics,
            fidelity=self.fidelity,
            latency=self.latencies,
            before=given.bytes if before is None else before,
            after=serialized_bytes(self.model) if after is None else after,
            known=Known(
                codes=sum(math.prod(layer.shape) for layer in self.layers if layer.bits < _FLOAT),
                measured_speed=self.speed is not None,
                search=self.search,
                given=given.title,
                floats=given.floats,
            ),
        )

    @property
    def latencies(self) -> Latencies | None:
        """Latencies of the given model and of the file. None if they were not timed."""
        return self.latency or (None if self.metrics is None else self.metrics.latencies)

    def overview(self) -> Glance:
        """Return the sizes, the measurements, the layers grouped by bits, and the verdict."""
        before, after = (self.given or Given(self.reference)).bytes, serialized_bytes(self.model)
        smaller = ratio(before / after, "smaller", "larger")
        headline = (
            f"Result of {self.recipe.name} for {self.target}: {len(self.layers)} layers, "
            f"{size(before)} to {size(after)} ({smaller})"
        )
        groups: dict[tuple[int, int], list[LayerReport]] = {}
        for layer in self.layers:
            groups.setdefault((layer.bits, layer.activation_bits), []).append(layer)
        rows = tuple(_group_row(weights, activations, members) for (weights, activations), members in groups.items())
        columns = ("weights", "activations", "layers", f"lowest SQNR of {self.recipe.sqnr_of}", "at")
        measured = None if self.metrics is None else self.metrics.overview()
        verdict = self.verdict(before, after).lines()
        return Glance(headline, columns, rows, verdict, numbers=(2, 3), below=measured)


def _group_row(weights: int, activations: int, members: Sequence[LayerReport]) -> tuple[str, ...]:
    """Return the row of layers with the same bits. 32 bits are float."""
    known = [(layer.after_db, layer.name) for layer in members if layer.after_db is not None]
    lowest, name = min(known, default=(None, ""))
    bits = ("float" if bits == _FLOAT else f"{bits} bits" for bits in (weights, activations))
    return (*bits, str(len(members)), decibels(lowest), name)


def layer_reports(
    model: Model,
    reports: Sequence[PassReport],
    storage: Storage,
    branches: Mapping[tuple[str, str], Sequence[LayerReport]],
) -> tuple[LayerReport, ...]:
    """Return reports of every linear layer, and of every node of such an operator that cannot be used as one.

    A layer in a body of an If, Loop, Scan or SequenceMap counts too.

    Args:
        model: The model.
        reports: Reports of the passes.
        storage: Storage form of the weights.
        branches: Reports of the layers in converted branches. See `converter.pipeline.branches`.
    """
    coded = model.quantized.keys() | model.recurrent.keys()
    changes = {name: change for report in reports for name, change in report.changed.items() if name in coded}
    result = []
    refused = {name: why for name, why in refused_layers(model.graph).items() if name not in model.recurrent}
    layers, recurrent = model.layers(), model.recurrent_layers()
    for node in model.graph.nodes:
        result += _inner_reports(node, branches)
        if node.name in refused:
            shape = recurrent[node.name].shape if node.name in recurrent else ()
            reason = model.float_reasons.get(node.name, refused[node.name])
            result.append(LayerReport(node.name, node.op, shape, 32, 32, "", 32, None, None, "", reason))
        if node.name in model.recurrent:
            result.append(_recurrent_report(model, recurrent[node.name], storage, changes[node.name]))
        if node.name not in layers:
            continue
        layer, quantized = layers[node.name], model.quantized.get(node.name)
        if quantized is None:
            reason = model.float_reasons.get(layer.name, "no pass of the recipe quantizes it")
            result.append(LayerReport(layer.name, layer.op, layer.weight_shape, 32, 32, "", 32, None, None, "", reason))
            continue
        change = changes[layer.name]
        grid = quantized.grid
        stored = bits_in_file(model, layer, storage, smallest=True)
        result.append(
            LayerReport(
                name=layer.name,
                op=layer.op,
                shape=layer.weight_shape,
                bits=grid.bits,
                stored_bits=stored,
                granularity="channel" if stored == 8 and grid.per_channel else grid.granularity,
                activation_bits=_activation_bits(model, layer, storage),
                before_db=change.before_db,
                after_db=change.after_db,
                note=", ".join(filter(None, (change.what, model.float_activations.get(layer.name)))),
                reason="",
                weights=distribution(model.float_weights[layer.name].matrix(), quantized.codes, grid),
                multiples=0 if grid.multiples is None or stored == 8 else grid.multiples.size,
                pattern="" if quantized.pruned is None else quantized.pruned.pattern,
            )
        )
    return tuple(result)


def _activation_bits(model: Model, layer: Linear, storage: Storage) -> int:
    if runs_on_integers(model, layer):
        return model.activation_qparams[layer.input].bits
    return 8 if multiplies_integers(model, layer, storage) else 32


def _recurrent_report(model: Model, layer: Recurrent, storage: Storage, change: Change) -> LayerReport:
    """Return the report of an LSTM, GRU or RNN whose weights have codes."""
    quantized = model.recurrent[layer.name]
    grids = [part.grid for part in quantized.weights]
    stored = recurrent_bits_in_file(model, layer, storage, smallest=True)
    granularity = ["channel" if stored == 8 and grid.per_channel else grid.granularity for grid in grids]
    multiples = sum(0 if grid.multiples is None or stored == 8 else grid.multiples.size for grid in grids)
    return LayerReport(
        name=layer.name,
        op=layer.op,
        shape=layer.shape,
        bits=max(grid.bits for grid in grids),
        stored_bits=stored,
        granularity=" and ".join(dict.fromkeys(granularity)),
        activation_bits=8 if is_dynamic_lstm(layer, quantized, storage) else 32,
        before_db=change.before_db,
        after_db=change.after_db,
        note=change.what,
        reason="",
        multiples=multiples,
    )


def _inner_reports(node: gs.Node, branches: Mapping[tuple[str, str], Sequence[LayerReport]]) -> list[LayerReport]:
    """Return reports of the layers inside of a node."""
    found: list[LayerReport] = []
    for attribute, value in node.attrs.items():
        if (node.name, attribute) in branches:
            found += branches[node.name, attribute]
        elif isinstance(value, onnx.GraphProto):
            found += _float_reports(node, value)
    return found


def _float_reports(node: gs.Node, body: onnx.GraphProto) -> list[LayerReport]:
    found = []
    for inner, around in inner_nodes([body]):
        if inner.op_type in LINEAR_OPS | RECURRENT_OPS:
            shapes = {tensor.name: tuple(tensor.dims) for tensor in around.initializer}
            shape = next((shapes[name] for name in inner.input if name in shapes), ())
            name, reason = inner.name or inner.output[0], f"inside the {node.op} {node.name}"
            found.append(LayerReport(name, inner.op_type, shape, 32, 32, "", 32, None, None, "", reason))
    return found


def mean_file_bits(layers: Sequence[LayerReport]) -> float:
    """Return the mean bits per weight of these layers in the file, multiples of block scales included."""
    return sum(layer.file_bits for layer in layers) / sum(math.prod(layer.shape) for layer in layers)


def versions() -> dict[str, str]:
    """Return the versions of this package and of the libraries that the numbers depend on."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def numeric_versions() -> dict[str, str]:
    """Return the versions of other libraries whose results may change from one to the next, if they are installed."""
    found = {}
    for name in ("scipy", "pillow"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def stamp(
    model: onnx.ModelProto,
    recipe: Recipe,
    layers: Sequence[LayerReport],
    floats: Mapping[str, str],
    facts: Mapping[str, Any],
) -> None:
    """Write provenance into metadata_props.

    Args:
        model: Model to write into.
        recipe: Recipe, with the preprocessing.
        layers: Reports with the bits of every layer, or the reason why it stayed in float.
        floats: Reasons why activations stayed in float, by layer name.
        facts: Other entries by key.
    """
    pruned = {layer.name: layer.pattern for layer in layers if layer.pattern}
    entries = {
        "recipe": text_to_store(recipe, brief=sum(math.prod(layer.shape) for layer in layers) < _SMALL),
        "preprocess": recipe.preprocess.to_json(),
        "layer_bits": json.dumps({layer.name: layer.bits for layer in layers}),
        "float_reasons": json.dumps({layer.name: layer.reason for layer in layers if layer.reason}),
        "float_activations": json.dumps(dict(floats)),
        **({PRUNED_KEY: json.dumps(pruned)} if pruned else {}),
        **{key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()},
    }
    for key, value in entries.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = f"convert_onnx.{key}", value
