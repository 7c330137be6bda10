"""Expected drops: nothing for no error, more for more, and nearer to the truth than a count."""

import numpy as np
import pytest
from numpy.typing import NDArray

from passes.numerics.flips import expected_drop, largest_scale

Scores = NDArray[np.float32]


def classifier(images: int, seed: int, classes: int = 10) -> tuple[Scores, Scores, NDArray[np.int64]]:
    """Scores with a best class by a margin of its own, errors that grow with it, and labels, 80 % of them the best."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, images)
    scores = random.normal(0, 1, (images, classes)).astype(np.float32)
    scores[np.arange(images), labels] += random.gamma(2, 1.5, images).astype(np.float32)
    size = 0.1 + 0.05 * np.abs(scores).max(axis=1, keepdims=True)
    errors = (size * random.normal(0, 1, scores.shape)).astype(np.float32)
    return scores, errors, labels


def counted(scores: Scores, errors: Scores, labels: NDArray[np.int64] | None) -> float:
    before, after = scores.argmax(axis=1), (scores + errors).argmax(axis=1)
    truth = before if labels is None else labels
    return float(np.mean(before == truth) - np.mean(after == truth))


@pytest.mark.parametrize("labelled", [True, False])
def test_no_error_no_drop_and_more_for_more(labelled: bool) -> None:
    scores, errors, labels = classifier(400, 0)
    truth = labels if labelled else None
    drops = [expected_drop(scores, errors, truth, scale) for scale in (0, 1, 3, 9, 100)]
    assert drops[0] == 0
    assert drops == sorted(drops)
    assert drops[-1] > 0.5


@pytest.mark.parametrize(("labelled", "scatter"), [(True, 0.7), (False, 1.2)], ids=["labels", "agreement"])
def test_it_is_true_on_average_and_with_labels_scatters_less(labelled: bool, scatter: float) -> None:
    """Gains and losses of labels cancel but for luck; which images are near a border is luck that stays."""
    scores, errors, labels = classifier(100_000, 1)
    truth = counted(scores, errors, labels if labelled else None)
    found, plain = [], []
    for seed in range(40):
        part = classifier(300, 100 + seed)
        given = (part[0], part[1], part[2] if labelled else None)
        found.append(expected_drop(*given))
        plain.append(counted(*given))
    assert np.std(found) < scatter * np.std(plain)
    assert abs(np.mean(found) - truth) < 0.1 * truth + np.std(found) / np.sqrt(len(found)) * 3


def test_a_label_that_no_error_reaches_is_no_loss() -> None:
    scores, errors, _ = classifier(50, 2, classes=100)
    labels = scores.argmin(axis=1)  # beyond the ranks that are looked at
    assert expected_drop(scores, errors, labels) == 0


def test_two_classes_and_one_image() -> None:
    scores = np.array([[1.0, 0.0]], np.float32)
    assert expected_drop(scores, np.array([[-2.0, 0.0]], np.float32), None) == 1


@pytest.mark.parametrize("drop", [0.01, 0.05])
def test_the_largest_scale_is_where_the_drop_is_reached(drop: float) -> None:
    scores, errors, labels = classifier(400, 3)
    scale = largest_scale(scores, errors, labels, drop, 100)
    assert expected_drop(scores, errors, labels, scale) <= drop
    assert expected_drop(scores, errors, labels, 1.05 * scale) > drop
    assert largest_scale(scores, errors, labels, 1.0, 7.0) == 7
