"""The drop of a metric between the float model and a file, with its standard error.

The held-out samples are divided into groups. The metric is computed without each group in turn (delete-a-group
jackknife). The differences between the two models scatter far less than the values of either, because both see the same
samples.

    error^2 = (G - 1) / G sum_g (d_g - mean d)^2          d_g: drop without group g

Source: Shao and Wu, A General Theory for Jackknife Variance Estimation, 1989.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from converter.data.dataset import Batch
from converter.metrics.metric import Metric, MetricFactory
from converter.metrics.metric_run import arrays_of, truth_of
from converter.metrics.registry import find_metric
from passes.errors import DataError
from passes.numerics.expected_drop import Drop

__all__ = ["GROUPS", "MetricDrop", "MetricJudge"]

GROUPS = 8  # there should be at least as many batches


class MetricJudge:
    """Computes the drop of a metric on held-out samples.

    Args:
        metric: Metric in a form of `converter.metrics.registry.find_metric`.
        outputs: Outputs of the float model for the first batch, by name.
        sample: The first batch.

    Raises:
        UsageError: There is no such metric, or the data lack labels that it needs.
    """

    def __init__(self, metric: Any, outputs: Mapping[str, Any], sample: Batch) -> None:
        self._make = find_metric(metric)
        first: Metric = self._make()
        _, truth = truth_of(first, arrays_of(outputs), sample.truth)
        self.name = first.name if truth == "labels" else f"{first.name} against float"

    def start(self) -> "MetricDrop":
        """Return an empty measurement of one file."""
        return MetricDrop(self._make)


class MetricDrop:
    """The drop of a metric from the float model to one file, batch by batch. Every batch is in one of the groups."""

    def __init__(self, make: MetricFactory) -> None:
        self._make, self._batches = make, 0
        self._whole = [make(), make()]
        self._without = [[make(), make()] for _ in range(GROUPS)]

    def update(self, batch: Batch, reference: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Add the outputs of the float model and of the file for a batch, by name."""
        both = [arrays_of(reference), arrays_of(outputs)]
        labels, _ = truth_of(self._make(), both[0], batch.truth)
        others = [pair for group, pair in enumerate(self._without) if group != self._batches % GROUPS]
        for pair in (self._whole, *others):
            for metric, each in zip(pair, both, strict=True):
                metric.update(each, labels)
        self._batches += 1

    def drop(self) -> Drop:
        """Return the drop as a share: a hundredth of the metric's unit."""
        drops = []
        for pair in self._without[: self._batches]:
            try:
                drops.append(self._difference(pair))
            except DataError:  # a group that held all samples with labels
                continue
        spread = np.asarray(drops) - np.mean(drops) if drops else np.zeros(1)
        error = float(np.sqrt((len(spread) - 1) / len(spread) * np.square(spread).sum()))
        lost = self._difference(self._whole) / 100
        return Drop(lost, max(error / 100, 1e-9), lost)

    def _difference(self, pair: list[Metric]) -> float:
        before, after = (metric.value() for metric in pair)
        return before - after if pair[0].higher_is_better else after - before
