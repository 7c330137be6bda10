"""How many images change class when noise is added to the scores of a classifier, from few images.

An attempt at quantization gives every image one error. Counting the classes that it changes says little: of 500 images
five change, and five more or less are luck. So each image is tried with the errors of other images as well, of those
nearest to it in the margin between its two best scores (errors grow with scores, so any image's would not do), and not
class by class but rank by rank: what the best class of one image got is added to the best class of the other.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["expected_drop", "largest_scale"]

_RANKS = 64  # classes that can become the best one
_NEIGHBOURS = 8  # images on either side whose errors are tried
_STEPS = 40  # of bisection; 2^-40 of the bracket

Scores = NDArray[np.float32]


def expected_drop(scores: Scores, errors: Scores, labels: NDArray[np.int64] | None, scale: float = 1.0) -> float:
    """Share of images that are lost where the errors are ``scale`` times as large, labels gained less labels lost.

    Args:
        scores: ``[n, classes]`` of the float network.
        errors: ``[n, classes]``, what quantization added to them.
        labels: ``[n]``; None: the float network's own classes, so that what is lost is agreement.
        scale: of the errors.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :_RANKS]  # [n, rank]
    ranked = np.take_along_axis(scores, order, axis=1)
    moved = np.take_along_axis(errors, order, axis=1) * np.float32(scale)
    right = np.zeros(len(scores), np.int64)  # rank of the label; -1 where it is too far behind to count
    if labels is not None:
        found = order == labels[:, None]
        right = np.where(found.any(axis=1), found.argmax(axis=1), -1)
    by_margin = np.argsort(ranked[:, 0] - ranked[:, min(1, ranked.shape[1] - 1)], kind="stable")
    ranked, moved, right = ranked[by_margin], moved[by_margin], right[by_margin]
    reach = min(_NEIGHBOURS, len(scores) - 1)
    kept = [np.mean((ranked + _shifted(moved, shift)).argmax(axis=1) == right) for shift in range(-reach, reach + 1)]
    return float(np.mean(right == 0) - np.mean(kept))


def largest_scale(scores: Scores, errors: Scores, labels: NDArray[np.int64] | None, drop: float, most: float) -> float:
    """The largest scale of the errors, up to ``most``, whose `expected_drop` is at most ``drop``; 0: there is none."""
    if expected_drop(scores, errors, labels, most) <= drop:
        return most
    low, high = 0.0, most
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if expected_drop(scores, errors, labels, middle) <= drop else (low, middle)
    return low


def _shifted(rows: Scores, shift: int) -> Scores:
    """Each row's neighbour at that distance; the ends reflect."""
    places = np.abs(np.arange(len(rows)) + shift)
    places = np.where(places >= len(rows), 2 * len(rows) - 2 - places, places)
    return rows[places]
