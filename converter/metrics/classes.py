"""Metrics of class scores: top-1, top-5 and F1."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from converter.metrics.metric import Labels, Metric, Outputs, SampleMean
from passes.errors import ModelError

__all__ = ["F1", "Top1", "Top5", "class_scores_of"]


def class_scores_of(outputs: Outputs, output: str | None) -> NDArray[np.float64]:
    """Return class scores [n, classes] from one of the outputs.

    Args:
        outputs: All outputs.
        output: Name of the output. None: the first one.

    Raises:
        ModelError: There is no such output, or it does not have this form.
    """
    values = select(outputs, output)
    if values.ndim < 2 or any(size != 1 for size in values.shape[2:]):
        raise ModelError(
            f"output {output or next(iter(outputs))!r} is {list(values.shape)}, not class scores [n, classes]; "
            "choose another metric, or the output as in top1(output='scores')"
        )
    return values.reshape(values.shape[0], values.shape[1]).astype(np.float64)


def select(outputs: Outputs, output: str | None) -> NDArray[np.float64]:
    """Return an output by name, or the first one.

    Raises:
        ModelError: There is no such output.
    """
    if output is None:
        return next(iter(outputs.values()))
    if output not in outputs:
        raise ModelError(f"the model has no output {output!r}; it has: {', '.join(outputs)}")
    return outputs[output]


class _TopK(SampleMean):
    """Percentage of samples whose label is among the k highest scores."""

    unit: ClassVar[str] = "%"
    of_classes: ClassVar[bool] = True
    k: ClassVar[int]

    def __init__(self, output: str | None = None) -> None:
        super().__init__()
        self._output = output

    def samples(self, outputs: Outputs, labels: Labels) -> NDArray[np.float64]:
        scores = class_scores_of(outputs, self._output)
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self.k]  # [n, k]
        return np.asarray(100.0 * (best == np.asarray(labels["y"]).reshape(-1, 1)).any(axis=1))

    def truth(self, outputs: Outputs) -> Labels:
        """Return the classes with the highest scores."""
        return {"y": class_scores_of(outputs, self._output).argmax(axis=1)}


class Top1(_TopK):
    """Percentage of samples whose highest score is their label."""

    name: ClassVar[str] = "top1"
    k: ClassVar[int] = 1


class Top5(_TopK):
    """Percentage of samples whose label is among the five highest scores."""

    name: ClassVar[str] = "top5"
    k: ClassVar[int] = 5


class F1(Metric):
    """F1 score, as scikit-learn's `f1_score` has it, in percent.

    Scores [n, classes] give one class each. Labels [n, classes] of zeros and ones mean that a sample can have several
    classes; then scores of ``threshold`` and more count.

    Args:
        output: Name of the output. None: the first one.
        average: "macro" (mean over classes), "micro" or "weighted".
        threshold: Least score of a class, if a sample can have several.
    """

    name: ClassVar[str] = "f1"
    of_classes: ClassVar[bool] = True
    unit: ClassVar[str] = "%"

    def __init__(self, output: str | None = None, average: str = "macro", threshold: float = 0.5) -> None:
        self._output, self._average, self._threshold = output, average, threshold
        self._found: list[NDArray[np.int64]] = []
        self._right: list[NDArray[np.int64]] = []

    def update(self, outputs: Outputs, labels: Labels) -> None:
        scores, right = class_scores_of(outputs, self._output), np.asarray(labels["y"])
        several = right.ndim == 2 and right.shape[1] > 1
        self._found.append((scores >= self._threshold).astype(np.int64) if several else scores.argmax(axis=1))
        self._right.append(right.astype(np.int64) if several else right.reshape(-1).astype(np.int64))

    def value(self) -> float:
        from sklearn.metrics import f1_score  # an extra

        right, found = np.concatenate(self._right), np.concatenate(self._found)
        return 100.0 * float(f1_score(right, found, average=self._average, zero_division=0))

    def truth(self, outputs: Outputs) -> Labels:
        """Return the classes with the highest scores."""
        return {"y": class_scores_of(outputs, self._output).argmax(axis=1)}
