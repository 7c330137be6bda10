"""The contract of a metric: it sees all outputs and labels of a model, batch by batch, and gives one number."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from passes.errors import DataError

__all__ = ["Labels", "Metric", "MetricFactory", "Outputs", "SampleMean"]

Outputs = Mapping[str, NDArray[Any]]
"""All outputs of a batch by name, each [n, ...] unless the model gives them without a batch axis."""

Labels = Mapping[str, Any]
"""Labels of a batch by name: arrays [n, ...] or lists of n. `y` are class numbers."""


class Metric(ABC):
    """A measurement over all samples. One instance measures one model.

    A metric of another package is offered by an entry point in the group ``convert_onnx.metrics``, or named as
    ``FILE.py:CLASS``. Derive a class from it, and override `update` and `value`. Override `truth` too if the metric has
    a meaning without labels.

    Attributes:
        name: Name in tables and in JSON.
        unit: Unit of the value, such as "%" or "dB". Empty for a plain number.
        higher_is_better: Whether a larger value is better. A loss is a metric for which this is False.
        needs: Names of the labels that the metric reads.
        of_classes: Whether the first output has class scores. Else no share of equal classes is shown.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("y",)
    of_classes: ClassVar[bool] = False

    @abstractmethod
    def update(self, outputs: Outputs, labels: Labels) -> None:
        """Add the outputs of a batch.

        Args:
            outputs: All outputs by name.
            labels: Labels of the same samples by name.
        """

    @abstractmethod
    def value(self) -> float:
        """Return the metric over all samples so far, in `unit`."""

    def truth(self, outputs: Outputs) -> Labels | None:
        """Return labels that the float model's outputs stand for, or None if the metric cannot make any.

        They are used where the data have no labels. The metric then says how far a file agrees with the float model.
        """
        return None


MetricFactory = Callable[[], Metric]
"""Makes the metric of one model."""


class SampleMean(Metric):
    """A metric that is the mean of one number for each sample. A subclass overrides `samples`."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    @abstractmethod
    def samples(self, outputs: Outputs, labels: Labels) -> NDArray[np.float64]:
        """Return one number for each sample of a batch, [n]."""

    def update(self, outputs: Outputs, labels: Labels) -> None:
        """Add the numbers of a batch."""
        values = np.asarray(self.samples(outputs, labels), np.float64).reshape(-1)
        self._sum += float(values.sum())
        self._count += len(values)

    def value(self) -> float:
        """Return the mean.

        Raises:
            DataError: There were no samples.
        """
        if not self._count:
            raise DataError(f"metric {self.name}: no sample was measured; give data with labels")
        return self._sum / self._count
