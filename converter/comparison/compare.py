"""Comparison of a quantized model with its float reference, layer by layer and image by image.

Two errors are measured at every tensor that both models have (`converter.comparison.matching`), over all images:

- the *accumulated* error: the difference between the two tensors;
- the *introduced* error: the difference between the quantized model's tensor and the output of the float layer when
  that layer reads the quantized model's own inputs (`converter.comparison.subgraphs`).

Memory does not grow with the number of images.
"""

import heapq
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.comparison.filled import without_filled_channels
from converter.comparison.matching import Match, match_tensors
from converter.comparison.subgraphs import Subgraphs
from converter.comparison.tap import Tap
from converter.comparison.transformed import cut_where_alike
from converter.data.dataset import Batch, Dataset
from converter.data.model_data import ModelsOnData, models_on_data
from converter.data.preprocess import Preprocess
from converter.display.json_values import fields_as_json
from converter.display.numbers import decibels, percent
from converter.display.overview import Glance, Overview
from converter.metrics.metric_run import MetricFacts, MetricRun
from converter.model_io.load import read_whole_onnx
from converter.model_io.open import ExportOptions
from converter.qdq.pruned import shares_of_zeros, taken_channels
from converter.runtime.batch_size import batch_size
from converter.runtime.output_errors import OutputErrors
from converter.runtime.output_numbers import numbers, row_numbers
from converter.runtime.output_parts import joined_outputs
from converter.runtime.runner import Runner, class_scores
from converter.runtime.session import Progress, no_progress
from converter.runtime.stacking import samples_alone
from converter.runtime.steps import log_step
from passes.errors import ModelError
from passes.numerics.error import Likeness, SqnrSum, sqnr_db
from passes.report import TakenChannels

__all__ = ["Comparison", "ImageError", "LayerError", "compare"]

_LOG = logging.getLogger(__name__)

_BATCH = 4  # all activations of two models are in memory at once
_WORST = 5
_SHOWN = 10  # layers in an overview


@dataclass(frozen=True)
class LayerError:
    """Errors at one matched tensor.

    Attributes:
        layer: Name of the node that computes the tensor in the reference.
        op: Operator of that node.
        tensor: Name of the tensor in the reference.
        sqnr_db: SQNR of the quantized model's tensor. It contains the error of all layers so far.
        cosine: Cosine similarity of the two tensors.
        introduced_db: SQNR against the float layer on the quantized model's inputs: the error of this layer alone.
        layers: Linear layers between this tensor and the matched tensors before it.
    """

    layer: str
    op: str
    tensor: str
    sqnr_db: float
    cosine: float
    introduced_db: float
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageError:
    """Error of one image.

    Attributes:
        image: File of the image, or its number in the data.
        sqnr_db: SQNR of its scores.
        expected: Class that the reference predicts, or None if the model is no classifier.
        found: Class that the quantized model predicts, or None.
        label: True class, or None if the data have no labels.
    """

    image: str
    sqnr_db: float
    expected: int | None
    found: int | None
    label: int | None


@dataclass(frozen=True, repr=False)
class Comparison(Overview):
    """Comparison of a quantized model with its reference.

    Attributes:
        reference: Name of the float model.
        model: Name of the quantized model.
        images: Number of images.
        layers: Every matched tensor, in the order of the reference's graph.
        unmatched: Tensors of the reference without a counterpart.
        agreement: Fraction of images with the same highest score. None unless the first output is [n, classes].
        sqnr_db: SQNR of the worst output of the model as it is deployed. -inf if the first one never has the same
            shape.
        outputs: SQNR of every float output, or of its parts, of the model as it is deployed, by name.
        metric: The metric that was asked for, or None.
        values: Values of the metric: of the reference, None if its own outputs are the labels, and of the model.
        zeros: Share of zero weights of every layer of the model, by name. Empty if the model has no pruned layer.
        transformed: Tensors whose channels are scaled, rotated or in another order in the quantized model. They are
            not compared.
        taken: What was taken out of the network with whole channels. None: nothing was.
        worst: Images whose first output has the lowest SQNR, worst first.
    """

    reference: str
    model: str
    images: int
    layers: tuple[LayerError, ...]
    unmatched: tuple[str, ...]
    agreement: float | None
    sqnr_db: float
    transformed: tuple[str, ...] = ()
    worst: tuple[ImageError, ...] = ()
    outputs: Mapping[str, float] = field(default_factory=dict)
    metric: MetricFacts | None = None
    values: tuple[float | None, ...] = ()
    zeros: Mapping[str, float] = field(default_factory=dict)
    taken: TakenChannels | None = None

    def overview(self) -> Glance:
        """Return the layers with the largest introduced errors."""
        added = sorted((entry for entry in self.layers if entry.layers), key=lambda entry: entry.introduced_db)
        rows = tuple(
            (entry.layers[-1], entry.op, decibels(entry.sqnr_db), decibels(entry.introduced_db), f"{entry.cosine:.4f}")
            for entry in added[:_SHOWN]
        )
        agreed = "" if self.agreement is None else f", agreement {percent(self.agreement)}"
        headline = (
            f"Comparison of {self.model} with {self.reference} on {self.images:,} samples: "
            f"SQNR {decibels(self.sqnr_db)}{agreed}"
        )
        notes = (f"{len(rows)} of {len(added)} layers, those that add most error first",) if rows else ()
        return Glance(headline, ("layer", "compared after", "so far", "added", "cosine"), rows, notes, range(2, 5))

    def to_json(self) -> dict[str, Any]:
        """Return JSON values. An infinite SQNR (no difference at all) becomes null."""
        return fields_as_json(self)


def compare(
    reference: Any,
    model: Any,
    data: Any,
    *,
    names: tuple[str, str] | None = None,
    limit: int | None = None,
    export: ExportOptions = ExportOptions(),  # noqa: B008  (frozen)
    preprocess: Preprocess = Preprocess(),  # noqa: B008  (frozen)
    metric: Any = None,
    progress: Progress = no_progress,
) -> Comparison:
    """Compare a quantized model with its float reference, layer by layer.

    Both run on all of ``data``. Tensors that both have become extra outputs of both models. Extra outputs can keep
    onnxruntime from fusing operators, so the figures for the whole network come from the model as it is.

    Args:
        reference: The float model: path of an .onnx file, ``FILE.py:FACTORY``, an onnx.ModelProto or a torch module.
        model: The quantized model, in the same forms.
        data: Images, in a form of `converter.load_data`, or a Dataset.
        names: Names of the two models in the result and in messages. The default is their paths.
        limit: Largest number of images. The default is all.
        export: Weights and input shape of torch models.
        preprocess: Preprocessing of uint8 data. It overrides what the models store.
        metric: Metric of both models, in a form of `converter.evaluate`.
        progress: Called with "comparing", the number of images that are done, and the number of all images.

    Raises:
        ModelError: A model cannot be loaded or run, or the outputs differ in shape. The message names the model.
        ConvertError: Any other error that a user can correct.
    """
    called = names or (_name(reference, "reference"), _name(model, "model"))
    with (
        log_step("compare"),
        models_on_data(
            [reference, model],
            data,
            names=called,
            limit=limit,
            export=export,
            preprocess=preprocess,
            annotated=metric is not None,
        ) as on,
    ):
        return _compared(on, progress, metric)


def _name(model: Any, role: str) -> str:
    """Return the path of a model, or its role if it has none."""
    return str(model) if isinstance(model, str | Path) else role


def _compared(on: ModelsOnData, progress: Progress, metric: Any) -> Comparison:
    (reference, model), (float_name, name), data = on.paths, on.names, on.data
    float_model, other_model = read_whole_onnx(reference), read_whole_onnx(model)
    matches, unmatched = match_tensors(float_model.graph, other_model.graph)
    reference_tap = Tap(float_model, float_name, [match.tensor for match in matches])
    model_tap = Tap(other_model, name, [match.other for match in matches])
    matches = [match for match in matches if match.tensor in reference_tap.floats and match.other in model_tap.floats]
    deployed = Runner(model, name, arena=False)

    layers: _Layers | None = None
    errors = OutputErrors(joined_outputs(float_model.graph))
    measure = None if metric is None else MetricRun(metric, 2)
    images = _Images(classifier=measure is None or measure.of_classes)

    data = samples_alone(data, reference_tap.runner)

    def sample_bytes(sample: Batch) -> int:
        """Bytes of the tensors of both models, and of those that are computed from the quantized model's."""
        return 3 * sum(numbers(value).nbytes for value in reference_tap.run(sample)[1].values())

    for batch in data.batches(batch_size(data, _BATCH, sample_bytes)):
        outputs, tensors = reference_tap.run(batch)
        results = dict(zip(deployed.outputs, deployed.run(batch), strict=True))
        wanted, given = (numbers(next(iter(each.values()))) for each in (outputs, results))
        if wanted.ndim != given.ndim or (wanted.shape != given.shape and not deployed.may_equal(reference_tap.runner)):
            raise ModelError(
                f"{name}: first output is {list(given.shape)}, {float_name} gives {list(wanted.shape)}; "
                "compare models of one kind"
            )
        images.update(wanted, given, batch, data)
        errors.update(outputs, results)
        if measure is not None:
            measure.update([outputs, results], batch.truth)
        _, others = model_tap.run(batch)
        both = {
            match.tensor: (tensors[match.tensor], without_filled_channels(tensors[match.tensor], others[match.other]))
            for match in matches
        }
        feeds = {key: batch.real(rows) for key, rows in reference_tap.inputs(batch).items()}
        layers = layers or _Layers(float_model, both, reference_tap.floats, feeds, reference_tap.batch)
        layers.update(both, feeds)
        progress("comparing", images.done, len(data))
    assert layers is not None  # a Dataset has at least one row
    if images.unlike:
        _LOG.warning(
            f"{name}: the first output has another shape than {float_name}'s for {images.unlike} of {images.done} "
            "samples; they do not count in the SQNR"
        )
    return Comparison(
        float_name,
        name,
        images.done,
        layers.errors(matches),
        (*unmatched, *(match.tensor for match in matches if match.tensor in layers.unlike)),
        images.agreement,
        images.db if images.unlike == images.done else min(errors.db().values(), default=images.db),
        tuple(match.tensor for match in matches if match.tensor in layers.transformed),
        images.worst(),
        errors.db(),
        None if measure is None else measure.facts,
        () if measure is None else tuple(measure.values()),
        shares_of_zeros(other_model),
        taken_channels(other_model),
    )


class _Layers:
    """Errors of every layer, accumulated batch by batch. The first batch decides where the reference is cut.

    Attributes:
        unlike: Tensors whose shape differs between the models: the same name for different tensors.
        transformed: Tensors whose channels are scaled, rotated or in another order.
    """

    def __init__(
        self,
        reference: onnx.ModelProto,
        both: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
        types: Mapping[str, int],
        feeds: Mapping[str, NDArray[Any]],
        batch: int | None,
    ) -> None:
        self.unlike = {tensor for tensor, (left, right) in both.items() if left.shape != right.shape}
        self._batch = batch
        wanted = {tensor: pair[0] for tensor, pair in both.items() if tensor not in self.unlike}
        given = {tensor: pair[1] for tensor, pair in both.items() if tensor not in self.unlike}
        self._subgraphs: Subgraphs
        self._subgraphs, self.transformed = cut_where_alike(reference, types, wanted, given, feeds, batch)
        self._cut = frozenset(wanted)
        compared = [tensor for tensor in wanted if tensor not in self.transformed]
        self._accumulated = {tensor: Likeness() for tensor in compared}
        self._introduced = {tensor: SqnrSum() for tensor in compared}

    def update(self, both: Mapping[str, tuple[NDArray[Any], NDArray[Any]]], feeds: Mapping[str, NDArray[Any]]) -> None:
        for tensor, (reference, quantized) in both.items():
            if (
                reference.shape != quantized.shape
            ):  # swapped axes go unnoticed if the first batch has as many rows as channels
                self.unlike.add(tensor)
                self.transformed.discard(tensor)
                self._accumulated.pop(tensor, None)
        given = {
            tensor: quantized if reference.shape == quantized.shape else reference
            for tensor, (reference, quantized) in both.items()
            if tensor in self._cut
        }
        computed = self._subgraphs.run(given, feeds, self._batch)
        for tensor, total in list(self._accumulated.items()):
            reference, quantized = both[tensor]
            alone = computed.get(tensor, reference)  # inputs have no subgraph
            if alone.shape != quantized.shape:  # the size depends on values, such as the number of detections
                self.unlike.add(tensor)
                del self._accumulated[tensor]
                continue
            total.update(reference, quantized)
            self._introduced[tensor].update(alone, quantized)

    def errors(self, matches: Sequence[Match]) -> tuple[LayerError, ...]:
        subgraphs = self._subgraphs.subgraphs
        return tuple(
            LayerError(
                match.layer,
                match.op,
                match.tensor,
                self._accumulated[match.tensor].db,
                self._accumulated[match.tensor].cosine,
                self._introduced[match.tensor].db,
                subgraphs[match.tensor].layers if match.tensor in subgraphs else (),
            )
            for match in matches
            if match.tensor in self._accumulated
        )


class _Images:
    """Errors of the first output, image by image."""

    def __init__(self, *, classifier: bool) -> None:
        self._total, self.done, self._agreed, self._classifier = SqnrSum(), 0, 0, classifier
        self.unlike = 0
        self._worst: list[tuple[float, int, ImageError]] = []

    def update(self, wanted: NDArray[Any], given: NDArray[Any], batch: Batch, data: Dataset) -> None:
        if wanted.shape != given.shape:  # such as another number of detections: nothing to compare
            self._classifier = False
            self.done += batch.count
            self.unlike += batch.count
            return
        self._total.update(wanted, given)
        scores = class_scores(wanted), class_scores(given)
        best: list[NDArray[Any]] | None = None
        if not self._classifier or scores[0] is None or scores[1] is None or len(scores[0]) != batch.count:
            self._classifier = False
        else:
            best = [scores[0].argmax(axis=1), scores[1].argmax(axis=1)]
            self._agreed += int((best[0] == best[1]).sum())
        for row in range(batch.count):
            one, other = row_numbers(wanted, row, batch.count), row_numbers(given, row, batch.count)
            if one is None or other is None:
                break
            sqnr = sqnr_db(one, other)
            expected, found = (None, None) if best is None else (int(best[0][row]), int(best[1][row]))
            label = None if batch.labels is None else int(batch.labels[row])
            error = ImageError(data.name(self.done + row), sqnr, expected, found, label)
            entry = (-sqnr, -self.done - row, error)  # of equal images, the first counts
            (heapq.heappush if len(self._worst) < _WORST else heapq.heappushpop)(self._worst, entry)
        self.done += batch.count

    @property
    def db(self) -> float:
        """SQNR over all images whose outputs can be compared. -inf if there are none."""
        return self._total.db if self.unlike < self.done else -math.inf

    @property
    def agreement(self) -> float | None:
        return self._agreed / self.done if self._classifier else None

    def worst(self) -> tuple[ImageError, ...]:
        return tuple(error for _, _, error in sorted(self._worst, reverse=True) if np.isfinite(error.sqnr_db))
