"""One metric over several models, batch by batch. The labels are the data's, or the first model's outputs."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.metrics.metric import Metric
from converter.metrics.registry import find_metric
from passes.errors import UsageError

__all__ = ["MetricFacts", "MetricRun", "Truth", "arrays_of", "truth_of"]

_LOG = logging.getLogger(__name__)

Truth = tuple[Mapping[str, Any], str]
"""Labels of a batch, and where they come from: "labels" or "first model"."""


@dataclass(frozen=True)
class MetricFacts:
    """What a metric is. Its fields are keys of the JSON.

    Attributes:
        name: Name of the metric.
        unit: Unit of its values, or empty.
        higher_is_better: Whether a larger value is better.
        truth: "labels" or "first model", whose outputs stand for labels.
    """

    name: str
    unit: str
    higher_is_better: bool
    truth: str

    def shown(self, value: float | None) -> str:
        """Return a value with its unit."""
        if value is None:
            return ""
        return f"{value:.2f}{'' if self.unit == '%' else ' ' if self.unit else ''}{self.unit}".replace("%", " %")


class MetricRun:
    """Values of a metric for several models.

    Args:
        metric: The metric in a form of `converter.metrics.registry.find_metric`.
        models: Number of models.

    Raises:
        UsageError: There is no such metric.
    """

    def __init__(self, metric: Any, models: int) -> None:
        make = find_metric(metric)
        self._metrics: list[Metric] = [make() for _ in range(models)]
        self._truth = ""

    def update(self, outputs: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> None:
        """Add the outputs of all models for one batch.

        Args:
            outputs: Outputs of every model, by name.
            given: Labels of the data, by name.

        Raises:
            UsageError: The data lack labels that the metric needs, and it cannot take outputs for labels.
        """
        arrays = [arrays_of(named) for named in outputs]
        first, unread = self._metrics[0], not self._truth and given
        labels, self._truth = truth_of(first, arrays[0], given)
        if unread and first.needs and self._truth == "first model":
            _LOG.warning(
                "metric %s reads labels %s, and the data have %s: the first model's outputs are the truth",
                first.name,
                ", ".join(first.needs),
                ", ".join(given),
            )
        for metric, each in zip(self._metrics, arrays, strict=True):
            metric.update(each, labels)

    @property
    def of_classes(self) -> bool:
        """Whether the first output has class scores."""
        return self._metrics[0].of_classes

    @property
    def facts(self) -> MetricFacts:
        """Name, unit and direction of the metric, and where its labels came from."""
        first = self._metrics[0]
        return MetricFacts(first.name, first.unit, first.higher_is_better, self._truth)

    def values(self) -> list[float | None]:
        """Return the value of each model. It is None for the first model if its own outputs are the labels."""
        own = [None] if self._truth == "first model" else [self._metrics[0].value()]
        return [*own, *(metric.value() for metric in self._metrics[1:])]


def arrays_of(outputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return the outputs that are arrays. A metric sees no sequences and maps."""
    return {name: each for name, each in outputs.items() if isinstance(each, np.ndarray)}


def truth_of(metric: Metric, reference: Mapping[str, Any], given: Mapping[str, Any]) -> Truth:
    """Return the labels of a batch for a metric: those of the data, or else the outputs of the reference.

    Args:
        metric: The metric.
        reference: Outputs of the reference, by name.
        given: Labels of the data, by name.

    Raises:
        UsageError: The data lack labels that the metric needs, and it cannot take outputs for labels.
    """
    if metric.needs and set(metric.needs) <= set(given):
        return given, "labels"
    made = metric.truth(reference)
    if made is not None:
        return made, "first model"
    missing = [name for name in metric.needs if name not in given]
    if missing:
        raise UsageError(
            f"metric {metric.name} needs labels {', '.join(missing)}, and the data have "
            f"{', '.join(given) or 'none'}; add them to the data by this name"
        )
    return given, "labels"
