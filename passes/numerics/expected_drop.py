"""The expected loss of accuracy from errors of a classifier's scores, estimated from few images.

Counting changed answers on few images is unreliable: of 500 images five change their class, two of them for the better,
and the next 500 give other numbers. This estimate averages over two kinds of chance:

- Which error meets which image. Each image is also tried with the errors of other images. These are its neighbours by
  margin, the difference of the two best scores. Errors grow with scores, so errors of arbitrary images would not do.
  Errors are exchanged rank by rank: the error of one image's best class is added to the other image's best class.
- Which label an image near a decision border has. The label is replaced by its probability, softmax(z / T). T is the
  temperature at which the labels are likeliest (Guo et al. 2017, arXiv 1706.04599, §4.2).

Without labels, the class of the float network counts as the right one. The drop is then a loss of agreement.

Example: ResNet-20 on 512 images. Files of 3.0 to 4 bits lost 1.6, 0.6, 0.2, 0.8, 1.4 and 0.2 ± 0.8 points by count, in
an order unrelated to their noise. The expected losses of the same files are 0.7, 0.7, 0.5, 0.4, 0.4 and 0.4.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DecisionMargins", "Drop", "counted", "temperature"]

_RANKS = 64  # number of classes that can become the best one
_NEIGHBOURS = 8  # number of images on either side whose errors are tried
_HALVINGS = 40  # how often a bracket is halved
_UNSURE = 0.25  # relative standard error of an expected drop, measured on 5,000 images
_COLDEST, _HOTTEST = -12.0, 12.0  # bracket of log T

Scores = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Drop:
    """The loss of accuracy by quantization, as shares of the images.

    Attributes:
        counted: Right answers lost minus right answers gained.
        error: Standard error of ``counted``.
        expected: Expected drop, from `DecisionMargins.drop`.
    """

    counted: float
    error: float
    expected: float

    @property
    def judged(self) -> float:
        """Mean of the counted and the expected drop, weighted by their inverse variances."""
        unsure = _UNSURE * max(abs(self.expected), self.error)
        counts, expects = self.error**-2, unsure**-2
        return (counts * self.counted + expects * self.expected) / (counts + expects)


def counted(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the share of right answers ``[n]`` that were lost, and its standard error.

    The standard error assumes one more change than was counted, so it is never 0.
    """
    lost = before.astype(float) - after
    return float(lost.mean()), float(np.sqrt(np.square(lost).sum() + 1) / len(lost))


def temperature(scores: Scores, labels: Labels) -> float:
    """Return the T at which the labels are likeliest under softmax(scores / T).

    The likelihood has one maximum in 1 / T.

    Args:
        scores: ``[n, classes]``.
        labels: ``[n]``.
    """
    shifted = scores - scores.max(axis=1, keepdims=True)
    own = np.take_along_axis(shifted, labels[:, None], axis=1)[:, 0]

    def slope(log: float) -> float:
        """Derivative of the log-likelihood by 1 / T: the label's score minus the expected score."""
        weights = np.exp(shifted / np.exp(log))
        return float(np.mean(own - (weights * shifted).sum(axis=1) / weights.sum(axis=1)))

    low, high = _COLDEST, _HOTTEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(np.exp((low + high) / 2))


@dataclass(frozen=True)
class DecisionMargins:
    """Scores of the float network, with images sorted by rising margin.

    Attributes:
        order: Classes of each image by falling score, ``[n, rank]``.
        ranked: Scores of these classes, ``[n, rank]``.
        worth: Probability that each of these classes is the right one, ``[n, rank]``.
        images: Original index of each image, ``[n]``.
    """

    order: NDArray[np.intp]
    ranked: Scores
    worth: NDArray[np.float64]
    images: NDArray[np.intp]

    @classmethod
    def of(cls, scores: Scores, labels: Labels | None) -> "DecisionMargins":
        """Sort images by margin.

        Args:
            scores: Scores of the float network, ``[n, classes]``.
            labels: Right classes, ``[n]``. None counts the float network's class as the right one.
        """
        order = np.argsort(-scores, axis=1, kind="stable")[:, :_RANKS]
        ranked = np.take_along_axis(scores, order, axis=1)
        worth = np.zeros(ranked.shape)
        if labels is None:
            worth[:, 0] = 1.0
        else:
            scaled = (scores - ranked[:, :1]) / temperature(scores, labels)
            worth = np.exp(np.take_along_axis(scaled, order, axis=1)) / np.exp(scaled).sum(axis=1, keepdims=True)
        images = np.argsort(ranked[:, 0] - ranked[:, min(1, ranked.shape[1] - 1)], kind="stable")
        return cls(order[images], ranked[images], worth[images], images)

    def drop(self, errors: Scores, scale: float = 1.0) -> float:
        """Return the share of right answers that errors of the scores cost.

        Args:
            errors: Errors of the scores, ``[n, classes]``, images in their original order.
            scale: Factor of the errors.
        """
        ranked_errors = np.take_along_axis(errors[self.images], self.order, axis=1) * np.float32(scale)
        reach = min(_NEIGHBOURS, len(ranked_errors) - 1)
        accuracies = []
        for shift in range(-reach, reach + 1):
            best = (self.ranked + _shifted(ranked_errors, shift)).argmax(axis=1)
            accuracies.append(np.take_along_axis(self.worth, best[:, None], axis=1).mean())
        return float(self.worth[:, 0].mean() - np.mean(accuracies))

    def largest_scale(self, errors: Scores, drop: float, most: float) -> float:
        """Return the largest factor of the errors, up to ``most``, with an expected drop of at most ``drop``."""
        if self.drop(errors, most) <= drop:
            return most
        low, high = 0.0, most
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.drop(errors, middle) <= drop else (low, middle)
        return low


def _shifted(rows: Scores, shift: int) -> Scores:
    """Return each row's neighbour at distance ``shift``. Indices beyond the ends are reflected."""
    indices = np.abs(np.arange(len(rows)) + shift)
    indices = np.where(indices >= len(rows), 2 * len(rows) - 2 - indices, indices)
    return rows[indices]
