"""Evaluation of model files side by side on one data set: accuracy, agreement, SQNR, size, latency.

    evaluation = evaluate(["float.onnx", "int8.onnx"], "validation/")
    evaluation.models[1].top1, evaluation.models[1].speedup

The first model is the reference for `agreement`, `sqnr_db` and `speedup` of the others. Memory does not grow with the
number of images.
"""

import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.data.dataset import Batch, Dataset
from converter.data.labels import Classes, check_labels
from converter.data.model_data import ModelsOnData, models_on_data
from converter.data.preprocess import Preprocess
from converter.display.json_values import fields_as_json
from converter.display.numbers import decibels, faster, milliseconds, percent, size
from converter.display.overview import Glance, Overview
from converter.display.words import samples
from converter.metrics.metric_run import MetricFacts, MetricRun, arrays_of, truth_of
from converter.metrics.registry import find_metric
from converter.model_io.open import ExportOptions, model_files
from converter.runtime.latency import BATCH, THREADS, Latencies, Quartiles, latencies
from converter.runtime.output_errors import OutputErrors
from converter.runtime.output_numbers import numbers
from converter.runtime.runner import Runner, class_scores
from converter.runtime.session import Progress, no_progress
from converter.runtime.stacking import samples_alone
from converter.runtime.steps import log_step
from passes.errors import ModelError

__all__ = ["Evaluation", "Measurement", "evaluate", "evaluate_pair", "require_metric"]

_LOG = logging.getLogger(__name__)

_BATCH = 16


@dataclass(frozen=True)
class Measurement:
    """Results of one model. Its fields are keys of the JSON.

    Attributes:
        model: Name of the model.
        bytes: Bytes of the file and its external data.
        images: Number of images.
        top1: Fraction of images whose highest score is their label. None without labels.
        agreement: Fraction of images whose highest score is that of the first model. None unless the output is
            [n, classes].
        sqnr_db: SQNR of the worst output against that of the first model. None for the first model, inf for equal
            outputs.
        latency_ms: Median milliseconds per image, batch 1, one thread. None if it was not measured.
        speedup: Latency of the first model divided by that of this model.
        outputs: SQNR of every float output, or of its parts, against that of the first model, by name. Empty for the
            first model.
        metric: Value of the metric that was asked for. None without a metric, or if the outputs of this model are its
            truth.
    """

    model: str
    bytes: int
    images: int
    top1: float | None
    agreement: float | None
    sqnr_db: float | None
    latency_ms: float | None
    speedup: float | None
    outputs: dict[str, float] = field(default_factory=dict)
    metric: float | None = None

    @property
    def top1_error(self) -> float | None:
        """Binomial standard error of `top1`: sqrt(p (1 - p) / images). None without labels."""
        return None if self.top1 is None else math.sqrt(self.top1 * (1 - self.top1) / self.images)


@dataclass(frozen=True, repr=False)
class Evaluation(Overview):
    """Results of `evaluate`.

    Attributes:
        data: Description of the data, as in `Dataset.describe`.
        models: One Measurement for each model.
        quartiles: Quartiles of each model's speedup over the rounds of timing. Empty if latency was not measured.
        metric: The metric that was asked for, or None.
    """

    data: dict[str, Any]
    models: tuple[Measurement, ...]
    quartiles: tuple[Quartiles, ...] = ()
    metric: MetricFacts | None = None

    def spread(self, place: int) -> Quartiles | None:
        """Return the quartiles of the speedup of the model at index ``place``, or None if it was not timed."""
        return self.quartiles[place] if self.quartiles else None

    @property
    def latencies(self) -> Latencies | None:
        """Latency of all models, if it was measured."""
        times = [model.latency_ms for model in self.models]
        measured = tuple(time for time in times if time is not None)
        return Latencies(measured, self.quartiles) if len(measured) == len(times) and self.quartiles else None

    def overview(self) -> Glance:
        """Return a table with one row for each model."""
        shown = () if self.metric is None else (self.metric,)
        columns = ("model", "size", *(each.name for each in shown), "top-1", "agreement", "SQNR", "latency", "speed")
        rows = tuple(
            (
                model.model,
                size(model.bytes),
                *(each.shown(model.metric) for each in shown),
                percent(model.top1),
                percent(model.agreement) if index else "",
                decibels(model.sqnr_db) if index else "",
                milliseconds(model.latency_ms),
                faster(model.speedup, self.spread(index)) if index else "",
            )
            for index, model in enumerate(self.models)
        )
        names = ", ".join(model.model for model in self.models)
        headline = f"Evaluation of {names} on {samples(self.data['images'], self.data.get('preprocess'))}"
        return Glance(headline, columns, rows, ("agreement, SQNR and speed: against the first model",), range(1, 8))

    def to_json(self) -> dict[str, Any]:
        """Return `{"data": {...}, "latency": {...}, "metric": {...}, "models": [{...}]}`. Infinity becomes null."""
        latency = {"batch": BATCH, "threads": THREADS, "speedup_quartiles": self.quartiles or None}
        metric = None if self.metric is None else fields_as_json(self.metric)
        models = [fields_as_json(model) for model in self.models]
        return {"data": self.data, "latency": latency, "metric": metric, "models": models}


class _Tally:
    """Counts for one model, batch by batch."""

    def __init__(self, joined: Collection[str], *, classifier: bool) -> None:
        self.correct = self.agreed = 0
        self.errors = OutputErrors(joined)
        self.classifier = classifier
        self.unlike = 0


def evaluate(
    models: Sequence[Any],
    data: Any,
    *,
    names: Sequence[str] | None = None,
    latency: bool = True,
    limit: int | None = None,
    export: ExportOptions = ExportOptions(),  # noqa: B008  (frozen)
    preprocess: Preprocess = Preprocess(),  # noqa: B008  (frozen)
    metric: Any = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Measure models side by side.

    Args:
        models: Paths of .onnx files, ``FILE.py:FACTORY``, onnx.ModelProto or torch modules. The first is the reference.
        data: Images, with or without labels, in a form of `converter.load_data`, or a Dataset. All of them are used.
        names: Names of the models in the result and in messages. The default is their paths.
        latency: Whether to measure latency too, with the models interleaved (see `converter.runtime.latency`).
        limit: Largest number of images. The default is all.
        export: Weights and input shape of torch models.
        preprocess: Preprocessing of uint8 data. It overrides what the models store.
        metric: Name of a metric, ``FILE.py:CALLABLE``, or a class or function, see `converter.Metric`. It sees all
            outputs and labels. Without labels that it needs, the outputs of the first model are the truth.
        progress: Called with "evaluating", the number of images that are done, and the number of all images.

    Raises:
        ModelError: A model cannot be loaded or run, gives NaN or Inf, or has outputs of another shape than the first
            model. The message names the model.
        DataError: The data cannot be used, or the model has no class for a label.
        ConvertError: Any other error that a user can correct.
    """
    if not models:
        raise ModelError("no models to evaluate; give at least one .onnx file")
    with (
        log_step("evaluate"),
        models_on_data(
            models,
            data,
            names=names,
            limit=limit,
            export=export,
            preprocess=preprocess,
            annotated=metric is not None,
        ) as on,
    ):
        return _measured(on, latency, progress, metric)


def _measured(on: ModelsOnData, latency: bool, progress: Progress, metric: Any = None) -> Evaluation:
    paths, called, data = on.paths, on.names, on.data
    sizes = [file.bytes for file in on.files]
    measure = None if metric is None else MetricRun(metric, len(paths))
    runners = [Runner(path, name) for path, name in zip(paths, called, strict=True)]
    joined = runners[0].joined()
    classifier = measure is None or measure.of_classes
    tallies = [_Tally(joined, classifier=classifier) for _ in paths]
    _stream(runners, tallies, data, measure, progress)
    values: Sequence[float | None] = [None] * len(paths) if measure is None else measure.values()
    timed = latencies(paths, next(data.batches(1)), names=called) if latency else None
    times: Sequence[float | None] = [None] * len(paths) if timed is None else timed.ms
    count = len(data)
    measured = [
        Measurement(
            model=name,
            bytes=size,
            images=count,
            top1=tally.correct / count if tally.classifier and data.labels is not None else None,
            agreement=tally.agreed / count if tally.classifier else None,
            sqnr_db=min(tally.errors.db().values(), default=None),
            latency_ms=time,
            speedup=times[0] / time if time is not None and times[0] is not None else None,
            outputs=tally.errors.db(),
            metric=value,
        )
        for name, size, tally, time, value in zip(called, sizes, tallies, times, values, strict=True)
    ]
    facts = None if measure is None else measure.facts
    return Evaluation(data.describe(), tuple(measured), () if timed is None else timed.quartiles, facts)


def evaluate_pair(
    reference: Path | onnx.ModelProto,
    quantized: onnx.ModelProto,
    data: Dataset,
    name: str,
    progress: Progress,
    metric: Any = None,
    *,
    latency: bool = True,
) -> Evaluation:
    """Evaluate a quantized model in memory against its float model.

    Args:
        reference: The float model.
        quantized: The quantized model.
        data: Images, with or without labels.
        name: Name of the quantized model in the result.
        progress, metric, latency: As in `evaluate`.
    """
    with model_files([reference, quantized], names=["float", name]) as files:
        return _measured(ModelsOnData(files, data), latency=latency, progress=progress, metric=metric)


def require_metric(reference: Path | onnx.ModelProto, data: Dataset, metric: Any) -> None:
    """Require that a metric takes the outputs of a model, on the first sample, which finds most mistakes early.

    Args:
        reference: The float model.
        data: Data with the labels.
        metric: As in `evaluate`.

    Raises:
        UsageError: There is no such metric, or the data lack labels that it needs.
        ConvertError: What the metric, or a function of the user that it calls, makes of the outputs is wrong.
    """
    runner, batch = Runner(reference, "the float model"), next(data.batches(1))
    measure = find_metric(metric)()
    outputs = arrays_of(dict(zip(runner.outputs, runner.run(batch), strict=True)))
    labels, _ = truth_of(measure, outputs, batch.truth)
    measure.update(outputs, labels)


def _stream(
    runners: Sequence[Runner],
    tallies: Sequence[_Tally],
    data: Dataset,
    measure: MetricRun | None,
    progress: Progress,
) -> None:
    done = 0
    data = samples_alone(data, runners[0])
    for batch in data.batches(min(runner.batch_size(data, _BATCH, len(runners)) for runner in runners)):
        reference: NDArray[Any] | None = None
        first: dict[str, Any] = {}
        named = [dict(zip(runner.outputs, runner.run(batch), strict=True)) for runner in runners]
        for runner, tally, outputs in zip(runners, tallies, named, strict=True):
            output = numbers(next(iter(outputs.values())))
            _require_finite(runner, output, done)
            if done == 0:
                _require_classes(runner, output, data)
            reference = output if reference is None else reference
            if output.ndim != reference.ndim or (output.shape != reference.shape and not runner.may_equal(runners[0])):
                raise ModelError(
                    f"{runner.name}: first output is {list(output.shape)}, {runners[0].name} gives "
                    f"{list(reference.shape)}; compare models of one kind"
                )
            _count(tally, reference, output, batch)
            if first:
                tally.errors.update(first, outputs)
            first = first or outputs
        if measure is not None:
            measure.update(named, batch.truth)
        done += batch.count
        progress("evaluating", done, len(data))
    for runner, tally in zip(runners, tallies, strict=True):
        if tally.unlike:
            _LOG.warning(
                f"{runner.name}: the first output has another shape than {runners[0].name}'s for {tally.unlike} of "
                f"{done} samples; they do not count in the SQNR"
            )


def _count(tally: _Tally, reference: NDArray[Any], output: NDArray[Any], batch: Batch) -> None:
    labels = batch.labels
    if output.shape != reference.shape:  # such as another number of detections
        tally.unlike += batch.count
        tally.classifier = False
        return
    scores, expected = class_scores(output), class_scores(reference)
    if scores is None or expected is None or len(scores) != batch.count:
        tally.classifier = False
        return
    best = scores.argmax(axis=1)
    tally.agreed += int((best == expected.argmax(axis=1)).sum())
    if labels is not None:
        tally.correct += int((best == labels).sum())


def _require_classes(runner: Runner, output: NDArray[Any], data: Dataset) -> None:
    """Check the labels against the number of classes. Some models reveal that number only in their output."""
    scores = class_scores(output)
    check_labels(data.source, data.labels, None if scores is None else Classes(runner.name, scores.shape[1]))


def _require_finite(runner: Runner, output: NDArray[Any], done: int) -> None:
    if np.issubdtype(output.dtype, np.floating) and not np.isfinite(output).all():
        rows = np.isfinite(output).reshape(len(output) if output.ndim else 1, -1).all(axis=1)
        row = int(np.argmin(rows))
        raise ModelError(
            f"{runner.name}: output '{runner.outputs[0]}' holds NaN or Inf for sample {done + row}; check its weights"
        )
