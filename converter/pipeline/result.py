"""What a conversion gives back: the model, what happened to every layer, and what was measured."""

import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from converter.display.numbers import decibels, ratio, size
from converter.display.overview import Glance, Overview
from converter.evaluation.evaluate import Evaluation
from converter.model_io.save import save_onnx
from converter.pipeline.footprint import Step
from converter.pipeline.search_record import Search
from converter.qdq.weights import Storage
from converter.qdq.writer import bits_in_file, runs_on_integers
from converter.recipes.recipe import Recipe
from converter.recipes.toml import dump_recipe
from converter.speed.search import Speed
from converter.targets.catalog import find_target
from passes.ir.linear import refused_layers
from passes.ir.model import Model
from passes.numerics.distribution import Distribution, distribution
from passes.report import PassReport

__all__ = ["LayerReport", "Result", "layer_reports", "mean_file_bits", "stamp", "versions"]

_MULTIPLE_BITS = 4
_FLOAT = 32  # bits of what is not quantized
_PACKAGES = ("convert-onnx", "onnx", "onnxruntime", "onnx-graphsurgeon", "numpy")


@dataclass(frozen=True)
class LayerReport:
    """One Conv, ConvTranspose, Gemm or MatMul.

    Attributes:
        name, op: the node's.
        shape: of the stored weight.
        bits: of the weight's grid; 32 where it stayed in float.
        stored_bits: bits a weight takes in the file.
        granularity: what shares a scale: "channel" or "block 32".
        activation_bits: of the layer's input.
        before_db, after_db: SQNR of plain rounding, or before the last pass that refined the layer, and as written.
        note: what else the pass did.
        reason: why the layer stayed in float.
        weights: as they were before rounding, folded and rescaled, and as they were written; None in float.
        multiples: how many multiples of channels' scales lie beside the codes, at 4 bits each.
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

    @property
    def file_bits(self) -> float:
        """Bits that all its weights take in the file, multiples included."""
        return math.prod(self.shape) * self.stored_bits + _MULTIPLE_BITS * self.multiples


@dataclass(frozen=True, repr=False)
class Result(Overview):
    """A finished conversion.

    Attributes:
        model: the quantized ONNX model, checked and with provenance in metadata_props.
        reference: the float model it was made from.
        layers: every linear layer once.
        passes: what each pass reported.
        metrics: size, accuracy and latency before and after, if evaluation data were given.
        calibration: source, number, digest and preprocessing of the calibration images, if there were any.
        seconds: of the whole conversion.
        training: the same of the images that were trained on, and of those how many were held out, if a pass trained.
        steps: what it spent them on, and the memory of each.
        search: how it was found, where a budget was given.
        speed: what was measured to decide which activations stay in float, if that was asked for.
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

    def save(self, path: str | Path) -> None:
        """Write the model; an existing file is replaced only once the new one has been checked and loaded.

        Raises:
            OutputError: the file cannot be written.
        """
        save_onnx(self.model, Path(path), keep_int8=find_target(self.target).rules.signed)

    def overview(self) -> Glance:
        """The sizes, what was measured, and the layers by their bits."""
        before, after = self.reference.ByteSize(), self.model.ByteSize()
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
        return Glance(headline, columns, rows, numbers=(2, 3), below=measured)


def _group_row(weights: int, activations: int, members: Sequence[LayerReport]) -> tuple[str, ...]:
    """Layers of the same bits; 32 bits are float."""
    known = [(layer.after_db, layer.name) for layer in members if layer.after_db is not None]
    lowest, name = min(known, default=(None, ""))
    bits = ("float" if bits == _FLOAT else f"{bits} bits" for bits in (weights, activations))
    return (*bits, str(len(members)), decibels(lowest), name)


def layer_reports(model: Model, reports: Sequence[PassReport], storage: Storage) -> tuple[LayerReport, ...]:
    """Every linear layer of the quantized model once, and every node that could not be seen as one."""
    changes = {name: change for report in reports for name, change in report.changed.items() if name in model.quantized}
    result = []
    refused = refused_layers(model.graph)
    layers = model.layers()
    for node in model.graph.nodes:
        if node.name in refused:
            result.append(LayerReport(node.name, node.op, (), 32, 32, "", 32, None, None, "", refused[node.name]))
        if node.name not in layers:
            continue
        layer, quantized = layers[node.name], model.quantized.get(node.name)
        if quantized is None:
            reason = model.float_reasons.get(layer.name, "no pass of the recipe quantizes it")
            result.append(LayerReport(layer.name, layer.op, layer.weight_shape, 32, 32, "", 32, None, None, "", reason))
            continue
        change = changes[layer.name]
        grid = quantized.grid
        stored = bits_in_file(model, layer, storage)
        result.append(
            LayerReport(
                name=layer.name,
                op=layer.op,
                shape=layer.weight_shape,
                bits=grid.bits,
                stored_bits=stored,
                granularity="channel" if stored == 8 and grid.per_channel else grid.granularity,
                activation_bits=8 if runs_on_integers(model, layer) else 32,
                before_db=change.before_db,
                after_db=change.after_db,
                note=", ".join(filter(None, (change.what, model.float_activations.get(layer.name)))),
                reason="",
                weights=distribution(model.float_weights[layer.name][0], quantized.codes, grid),
                multiples=0 if grid.multiples is None or stored == 8 else grid.multiples.size,
            )
        )
    return tuple(result)


def mean_file_bits(layers: Sequence[LayerReport]) -> float:
    """Bits that a weight of these layers takes in the file, multiples of block scales included."""
    return sum(layer.file_bits for layer in layers) / sum(math.prod(layer.shape) for layer in layers)


def versions() -> dict[str, str]:
    """This package's version and those of the libraries that the numbers depend on."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def stamp(
    model: onnx.ModelProto,
    recipe: Recipe,
    layers: Sequence[LayerReport],
    floats: Mapping[str, str],
    facts: Mapping[str, Any],
) -> None:
    """Write provenance into metadata_props.

    That is the recipe, the preprocessing, the bits of every layer, why layers stayed in float, why others' activations
    did (``floats``), and ``facts``.
    """
    entries = {
        "recipe": dump_recipe(recipe),
        "preprocess": recipe.preprocess.to_json(),
        "layer_bits": json.dumps({layer.name: layer.bits for layer in layers}),
        "float_reasons": json.dumps({layer.name: layer.reason for layer in layers if layer.reason}),
        "float_activations": json.dumps(dict(floats)),
        **{key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()},
    }
    for key, value in entries.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = f"convert_onnx.{key}", value
