"""Metrics of vectors: cosine of embeddings, and the SQNR of all outputs."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from converter.metrics.classes import select
from converter.metrics.metric import Labels, Metric, Outputs, SampleMean
from passes.errors import DataError
from passes.numerics.error import SqnrSum

__all__ = ["Cosine", "Sqnr"]


class Cosine(SampleMean):
    """Mean cosine between an embedding and its label ``y`` [n, d], from -1 to 1.

    Args:
        output: Name of the output. None: the first one.
    """

    name: ClassVar[str] = "cosine"

    def __init__(self, output: str | None = None) -> None:
        super().__init__()
        self._output = output

    def samples(self, outputs: Outputs, labels: Labels) -> NDArray[np.float64]:
        values = select(outputs, self._output).astype(np.float64)
        right = np.asarray(labels["y"], np.float64)
        if values.shape != right.shape:
            raise DataError(f"metric cosine: labels y are {list(right.shape)}, the output is {list(values.shape)}")
        found, right = values.reshape(len(values), -1), right.reshape(len(values), -1)
        size = np.linalg.norm(found, axis=1) * np.linalg.norm(right, axis=1)
        return np.asarray((found * right).sum(axis=1) / np.where(size > 0, size, np.inf))

    def truth(self, outputs: Outputs) -> Labels:
        """Return the output itself."""
        return {"y": select(outputs, self._output)}


class Sqnr(Metric):
    """SQNR in dB of the worst float output, with the float model's outputs as the signal. It reads no labels."""

    name: ClassVar[str] = "sqnr"
    unit: ClassVar[str] = "dB"
    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self._sums: dict[str, SqnrSum] = {}

    def update(self, outputs: Outputs, labels: Labels) -> None:
        for name, right in labels.items():
            if name in outputs and getattr(right, "shape", None) == outputs[name].shape:
                self._sums.setdefault(name, SqnrSum()).update(right, outputs[name])

    def value(self) -> float:
        if not self._sums:
            raise DataError("metric sqnr: no float output can be compared with the float model's")
        return min(total.db for total in self._sums.values())

    def truth(self, outputs: Outputs) -> Labels:
        """Return all float outputs."""
        return {name: values for name, values in outputs.items() if values.dtype.kind == "f"}
