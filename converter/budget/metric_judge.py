"""The drop of a metric between the float model and a file, with its standard error.

The held-out samples are divided into groups. The metric is computed without each group in turn (delete-a-group
jackknife). The differences between the two models scatter far less than the values of either, because both see the same
samples.

    error^2 = (G - 1) / G sum_g (d_g - mean d)^2          d_g: drop without group g

Source: Shao and Wu, A General Theory for Jackknife Variance Estimation, 1989.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from converter.data.dataset import Batch, Dataset
from converter.metrics.metric import Metric
from converter.metrics.metric_run import arrays_of, truth_of
from converter.metrics.registry import find_metric
from converter.runtime.runner import Runner
from passes.errors import DataError
from passes.numerics.expected_drop import Drop

__all__ = ["MetricJudge"]

_GROUPS = 8
_BATCH = 16


class MetricJudge:
    """Computes the drop of a metric on held-out samples.

    Args:
        metric: Metric in a form of `converter.metrics.registry.find_metric`.
        reference: The float model.
        data: The held-out samples.

    Raises:
        UsageError: There is no such metric, or the data lack labels that it needs.
    """

    def __init__(self, metric: Any, reference: Path | onnx.ModelProto, data: Dataset) -> None:
        self._make, self._data = find_metric(metric), data
        self._float = Runner(reference, "the float model")
        first: Metric = self._make()
        self._higher = first.higher_is_better
        sample = next(data.batches(1))
        _, truth = truth_of(first, self._outputs(self._float, sample), sample.truth)
        self.name = first.name if truth == "labels" else f"{first.name} against float"

    def drop(self, model: onnx.ModelProto) -> Drop:
        """Return the drop of a file, as a share: a hundredth of the metric's unit."""
        runner = Runner(model, "the quantized model")
        groups = min(_GROUPS, len(self._data))
        whole = [self._make(), self._make()]
        without = [[self._make(), self._make()] for _ in range(groups)]
        size = min(runner.batch_size(self._data, _BATCH), self._float.batch_size(self._data, _BATCH))
        for index, batch in enumerate(self._data.batches(max(1, min(size, len(self._data) // groups)))):
            outputs = [self._outputs(each, batch) for each in (self._float, runner)]
            labels, _ = truth_of(self._make(), outputs[0], batch.truth)
            others = [pair for group, pair in enumerate(without) if group != index % groups]
            for pair in (whole, *others):
                for metric, each in zip(pair, outputs, strict=True):
                    metric.update(each, labels)
        drops = []
        for pair in without:
            try:
                drops.append(self._difference(pair))
            except DataError:  # a group that held all samples with labels
                continue
        spread = np.asarray(drops) - np.mean(drops) if drops else np.zeros(1)
        error = float(np.sqrt((len(spread) - 1) / len(spread) * np.square(spread).sum()))
        lost = self._difference(whole) / 100
        return Drop(lost, max(error / 100, 1e-9), lost)

    def _difference(self, pair: list[Metric]) -> float:
        before, after = (metric.value() for metric in pair)
        return before - after if self._higher else after - before

    def _outputs(self, runner: Runner, batch: Batch) -> dict[str, Any]:
        return arrays_of(dict(zip(runner.outputs, runner.run(batch), strict=True)))
