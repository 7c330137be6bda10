"""What errors of a classifier's scores cost in accuracy, expected from few images.

Counting says little: of 500 images five change their class, two of them for the better, and the next 500 give other
numbers. Two kinds of luck are averaged out. Which error meets which image: each image is tried with the errors of other
images as well, of those nearest to it in the margin between its two best scores (errors grow with scores, so any
image's would not do), rank by rank: what the best class of one got is added to the best class of the other. And which
label an image near a border happens to have: in place of the label stands its probability, softmax(z / T), with the
temperature T at which the labels are likeliest (Guo et al. 2017, arXiv 1706.04599, §4.2).

Without labels the float network's own class counts as the right one, and what is lost is agreement.

ResNet-20, 512 images: files of 3.0 to 4 bits lost 1.6, 0.6, 0.2, 0.8, 1.4 and 0.2 ± 0.8 points by count, in an order
that has nothing to do with their noise. The same files are expected to lose 0.7, 0.7, 0.5, 0.4, 0.4 and 0.4.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DecisionMargins", "Drop", "counted", "temperature"]

_RANKS = 64  # classes that can become the best one
_NEIGHBOURS = 8  # images on either side whose errors are tried
_HALVINGS = 40  # of a bracket
_UNSURE = 0.25  # of an expected drop: its error, seen on 5,000 images
_COLDEST, _HOTTEST = -12.0, 12.0  # of log T

Scores = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Drop:
    """What quantization costs, as shares of the images.

    Attributes:
        counted: right answers lost less right answers gained.
        error: standard error of that.
        expected: see `DecisionMargins.drop`.
    """

    counted: float
    error: float
    expected: float

    @property
    def judged(self) -> float:
        """Mean of what was counted and what is expected, weighted by the inverse of their variances."""
        unsure = _UNSURE * max(abs(self.expected), self.error)
        counts, expects = self.error**-2, unsure**-2
        return (counts * self.counted + expects * self.expected) / (counts + expects)


def counted(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> tuple[float, float]:
    """Share of right answers ``[n]`` lost, and its standard error: of the changes that were seen, and one more."""
    lost = before.astype(float) - after
    return float(lost.mean()), float(np.sqrt(np.square(lost).sum() + 1) / len(lost))


def temperature(scores: Scores, labels: Labels) -> float:
    """T at which softmax(scores / T) makes the labels likeliest; the likelihood has one maximum in 1 / T."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    own = np.take_along_axis(shifted, labels[:, None], axis=1)[:, 0]

    def slope(log: float) -> float:
        """Of the log-likelihood, by 1 / T: the label's score less the expected one."""
        weights = np.exp(shifted / np.exp(log))
        return float(np.mean(own - (weights * shifted).sum(axis=1) / weights.sum(axis=1)))

    low, high = _COLDEST, _HOTTEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(np.exp((low + high) / 2))


@dataclass(frozen=True)
class DecisionMargins:
    """The float network's images, by how near they are to another class.

    Attributes:
        order: ``[n, rank]``, classes by falling score; images by rising margin.
        ranked: ``[n, rank]``, their scores.
        worth: ``[n, rank]``, probability that a class is the right one.
        images: ``[n]``, places of these images in what errors are given for.
    """

    order: NDArray[np.intp]
    ranked: Scores
    worth: NDArray[np.float64]
    images: NDArray[np.intp]

    @classmethod
    def of(cls, scores: Scores, labels: Labels | None) -> "DecisionMargins":
        """Of scores ``[n, classes]`` and labels ``[n]``."""
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
        """Share of right answers that errors ``[n, classes]``, ``scale`` times as large, cost."""
        moved = np.take_along_axis(errors[self.images], self.order, axis=1) * np.float32(scale)
        reach = min(_NEIGHBOURS, len(moved) - 1)
        kept = []
        for shift in range(-reach, reach + 1):
            best = (self.ranked + _shifted(moved, shift)).argmax(axis=1)
            kept.append(np.take_along_axis(self.worth, best[:, None], axis=1).mean())
        return float(self.worth[:, 0].mean() - np.mean(kept))

    def largest_scale(self, errors: Scores, drop: float, most: float) -> float:
        """The largest scale of the errors, up to ``most``, at which they cost at most ``drop``."""
        if self.drop(errors, most) <= drop:
            return most
        low, high = 0.0, most
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.drop(errors, middle) <= drop else (low, middle)
        return low


def _shifted(rows: Scores, shift: int) -> Scores:
    """Each row's neighbour at that distance; the ends reflect."""
    places = np.abs(np.arange(len(rows)) + shift)
    places = np.where(places >= len(rows), 2 * len(rows) - 2 - places, places)
    return rows[places]
