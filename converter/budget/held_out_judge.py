"""Judging of files on held-out samples, by a metric or by classes, against the float network and the labels."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.budget.metric_judge import GROUPS, MetricJudge
from converter.data.dataset import Batch, Dataset
from converter.data.judging import Judging
from converter.data.labels import Classes, check_labels
from converter.model_io.scratch import scratch_folder
from converter.model_io.write import write_onnx
from converter.runtime.latency import latencies
from converter.runtime.output_errors import OutputErrors
from converter.runtime.output_numbers import numbers
from converter.runtime.runner import Runner, class_scores
from passes.errors import ModelError, UsageError
from passes.numerics.expected_drop import DecisionMargins, Drop, counted

__all__ = ["JUDGING", "Judge", "Verdict"]

_BATCH = 16
_FLOAT = "the float model"
_KEPT_BYTES = 2**28  # samples and outputs of the float network in memory; beyond it, the network runs again
JUDGING = Judging(most=2048, share=4, by_labels=True)
_ROUNDS, _SECONDS = 15, 6.0  # limits of a latency measurement


@dataclass(frozen=True)
class Verdict:
    """Errors of a file on the held-out samples.

    Attributes:
        power: Power of the error of the worst output, relative to the power of the float output. inf if it has NaN.
        drop: Loss of the metric or of accuracy. None if there is no metric and the model is no classifier.
        errors: Errors of the scores ``[n, classes]``. None if `drop` is None, or is that of a metric.
    """

    power: float
    drop: Drop | None
    errors: NDArray[np.float32] | None


class Judge:
    """Judges files on held-out samples. The float network's output is the reference.

    Args:
        reference: The float model.
        data: The held-out samples.
        classes: Whether the model has to be a classifier, because no metric is given.
        metric: Metric whose drop counts, or None: then top-1 accuracy, or agreement without labels.

    Raises:
        UsageError: The model has to be a classifier but is none, or the metric does not exist or lacks labels.
        DataError: The network has no class for a label. See `check_labels`.
    """

    def __init__(self, reference: Path | onnx.ModelProto, data: Dataset, *, classes: bool, metric: Any = None) -> None:
        self.data, self.reference = data, reference
        self._float = _FloatOutputs(Runner(reference, _FLOAT), data, 1 if metric is None else GROUPS)
        sample, outputs = next(iter(self._float))
        self.metric = None if metric is None else MetricJudge(metric, outputs, sample)
        first = numbers(next(iter(outputs.values())))
        self.scores = _class_scores(numbers(next(iter(outputs.values()))) for _, outputs in self._float)
        if classes and metric is None and self.scores is None:
            raise UsageError(
                f"`max_drop=` needs class scores [n, classes], and the first output is {list(first.shape)}; use "
                "`metric=` to say what may drop, or `max_bytes=`, which gives the smallest error of the output"
            )
        classes_of = None if self.scores is None or metric is not None else Classes(_FLOAT, self.scores.shape[1])
        check_labels(f"{data.source}, held-out samples", data.labels, classes_of)
        known = None if self.scores is None or metric is not None else DecisionMargins.of(self.scores, data.labels)
        self.margins = known

    @property
    def drop_of(self) -> str:
        """Name of the metric that drops. Empty without a metric if the model is no classifier."""
        if self.metric is not None:
            return self.metric.name
        if self.scores is None:
            return ""
        return "agreement with float" if self.data.labels is None else "top-1 accuracy"

    def judge(self, model: onnx.ModelProto) -> Verdict:
        """Run a quantized model on the held-out samples and return its errors."""
        runner = Runner(model, "the quantized model")
        errors, scores = OutputErrors(self._float.joined), []
        measured = None if self.metric is None else self.metric.start()
        for batch, expected in self._float:
            outputs = dict(zip(runner.outputs, runner.run(batch), strict=True))
            errors.update(expected, outputs)
            if measured is not None:
                measured.update(batch, expected, outputs)
            scores.append(numbers(next(iter(outputs.values()))))
        sqnr = errors.db()
        if not sqnr and self.metric is None:
            raise ModelError(
                f"no output has the size of {_FLOAT}'s on the same samples, as of a detector, so a budget cannot "
                "compare them; use `metric=`, or a recipe such as int8"
            )
        power = max((10 ** (-each / 10) if each > -math.inf else math.inf for each in sqnr.values()), default=0.0)
        if measured is not None:
            return Verdict(power, measured.drop(), None)
        found = None if self.scores is None else _class_scores(scores)
        if found is None or self.scores is None or found.shape != self.scores.shape:
            return self.verdict(power, None)
        return self.verdict(power, (found - self.scores).astype(np.float32))

    def verdict(self, power: float, errors: NDArray[np.float32] | None) -> Verdict:
        """Return the loss of accuracy from errors of the scores ``[n, classes]``."""
        if self.scores is None or self.margins is None or errors is None:
            return Verdict(power, None, None)
        before = self.scores.argmax(axis=1)
        right = before if self.data.labels is None else self.data.labels
        lost, error = counted(before == right, (self.scores + errors).argmax(axis=1) == right)
        return Verdict(power, Drop(lost, error, self.margins.drop(errors)), errors)

    def latency(self, model: onnx.ModelProto) -> tuple[float, float]:
        """Measure milliseconds per image on this machine's CPU, and the speed relative to float."""
        with scratch_folder() as folder:
            paths = [folder / "float.onnx", folder / "quantized.onnx"]
            write_onnx(model, paths[1])
            if isinstance(self.reference, Path):
                paths[0] = self.reference
            else:
                write_onnx(self.reference, paths[0])
            sample = next(self.data.batches(1))
            timed = latencies(paths, sample, names=["float", "quantized"], rounds=_ROUNDS, budget=_SECONDS)
        reference, quantized = timed.ms
        return quantized, reference / quantized


def _class_scores(outputs: Iterable[NDArray[Any]]) -> NDArray[np.float32] | None:
    """Return the class scores of all batches, [n, classes]. None if one of them has none, or another width."""
    parts: list[NDArray[np.float32]] = []
    for output in outputs:
        scores = class_scores(output)
        if scores is None or (parts and scores.shape[1] != parts[0].shape[1]):
            return None
        parts.append(scores)
    return np.concatenate(parts)


class _FloatOutputs:
    """Batches of the held-out samples, and the outputs of the float network by name. They are kept if memory allows.

    Args:
        runner: The float network.
        data: The samples.
        batches: Fewest batches, if there are as many samples.

    Attributes:
        joined: Outputs that may have parts of different kinds.
    """

    def __init__(self, runner: Runner, data: Dataset, batches: int) -> None:
        self._runner, self._data = runner, data
        self._size = max(1, min(runner.batch_size(data, _BATCH, 2), len(data) // batches))
        self.joined = runner.joined()
        self._kept: list[tuple[Batch, dict[str, Any]]] | None = None

    def __iter__(self) -> Iterator[tuple[Batch, dict[str, Any]]]:
        if self._kept is not None:
            yield from self._kept
            return
        kept, left = [], float(_KEPT_BYTES)
        for batch in self._data.batches(self._size):
            outputs = dict(zip(self._runner.outputs, self._runner.run(batch), strict=True))
            left -= sum(array.nbytes for array in batch.feeds.values())
            left -= sum(numbers(value).nbytes for value in outputs.values())
            if left >= 0:
                kept.append((batch, outputs))
            else:
                kept.clear()
            yield batch, outputs
        self._kept = kept if left >= 0 else None
