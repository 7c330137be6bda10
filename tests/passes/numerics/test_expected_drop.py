"""Expected drops: zero without errors, growing with errors, unbiased, and with less variance than a count."""

import numpy as np
import pytest
from numpy.typing import NDArray

from passes.numerics.expected_drop import DecisionMargins, Drop, temperature
from passes.numerics.expected_drop import counted as counted_drop

Scores = NDArray[np.float32]
Labels = NDArray[np.int64]


def classifier(images: int, seed: int, classes: int = 10, heat: float = 2.0) -> tuple[Scores, Scores, Labels]:
    """Return scores, errors that grow with them, and labels drawn with probabilities softmax(scores / heat)."""
    random = np.random.default_rng(seed)
    scores = random.normal(0, 1, (images, classes)).astype(np.float32)
    scores[np.arange(images), random.integers(0, classes, images)] += random.gamma(4, 2.5, images).astype(np.float32)
    likely = np.exp(scores / heat) / np.exp(scores / heat).sum(axis=1, keepdims=True)
    labels = (likely.cumsum(axis=1) < random.random((images, 1))).sum(axis=1).clip(0, classes - 1)
    size = 0.1 + 0.05 * np.abs(scores).max(axis=1, keepdims=True)
    errors = (size * random.normal(0, 1, scores.shape)).astype(np.float32)
    return scores, errors, labels


def counted(scores: Scores, errors: Scores, labels: Labels | None) -> float:
    before, after = scores.argmax(axis=1), (scores + errors).argmax(axis=1)
    truth = before if labels is None else labels
    return float(np.mean(before == truth) - np.mean(after == truth))


@pytest.mark.parametrize("heat", [0.5, 2.0, 8.0])
def test_the_temperature_is_the_one_labels_were_drawn_with(heat: float) -> None:
    scores, _, labels = classifier(20_000, 5, heat=heat)
    assert temperature(scores, labels) == pytest.approx(heat, rel=0.05)


@pytest.mark.parametrize("labelled", [True, False])
def test_the_drop_is_zero_without_errors_and_grows_with_them(labelled: bool) -> None:
    scores, errors, labels = classifier(400, 0)
    margins = DecisionMargins.of(scores, labels if labelled else None)
    drops = [margins.drop(errors, scale) for scale in (0, 1, 3, 9, 100)]
    assert drops[0] == 0
    assert drops == sorted(drops)
    assert drops[-1] > 0.3


@pytest.mark.parametrize(("labelled", "scatter"), [(True, 0.3), (False, 1.2)], ids=["labels", "agreement"])
def test_it_is_unbiased_and_scatters_less_than_a_count(labelled: bool, scatter: float) -> None:
    """The estimate averages over labels and errors. The number of images near a border still varies."""
    scores, errors, labels = classifier(200_000, 1)
    truth = counted(scores, errors, labels if labelled else None)
    estimates, plain = [], []
    for seed in range(40):
        scores, errors, labels = classifier(300, 100 + seed)
        given = labels if labelled else None
        estimates.append(DecisionMargins.of(scores, given).drop(errors))
        plain.append(counted(scores, errors, given))
    assert np.std(estimates) < scatter * np.std(plain)
    assert abs(np.mean(estimates) - truth) < 0.15 * truth + 3 * np.std(estimates) / np.sqrt(len(estimates))


def test_errors_stay_near_their_own_images() -> None:
    """The half of the images with the largest margins have an error that changes their class."""
    scores, _, _ = classifier(200, 2)
    errors = np.zeros_like(scores)
    margin = np.sort(scores, axis=1)[:, -1] - np.sort(scores, axis=1)[:, -2]
    sure = margin > np.median(margin)
    errors[sure, scores[sure].argmin(axis=1)] = 100
    assert DecisionMargins.of(scores, None).drop(errors) == pytest.approx(0.5, abs=0.05)


def test_one_image() -> None:
    scores = np.array([[1.0, 0.0]], np.float32)
    assert DecisionMargins.of(scores, None).drop(np.array([[-2.0, 0.0]], np.float32)) == 1


@pytest.mark.parametrize("drop", [0.01, 0.05])
def test_the_largest_scale_reaches_the_drop(drop: float) -> None:
    scores, errors, labels = classifier(400, 3)
    margins = DecisionMargins.of(scores, labels)
    scale = margins.largest_scale(errors, drop, 100)
    assert margins.drop(errors, scale) <= drop
    assert margins.drop(errors, 1.05 * scale) > drop
    assert margins.largest_scale(errors, 1.0, 7.0) == 7


def test_the_mean_follows_the_estimate_with_less_variance() -> None:
    assert Drop(0.02, 0.0005, 0.005).judged == pytest.approx(
        0.017, abs=0.001
    )  # thousands of images: close to the count
    assert Drop(0.016, 0.0085, 0.005).judged == pytest.approx(0.005, abs=0.001)  # hundreds: close to the expected drop
    assert Drop(0.0, 0.03, 0.0).judged == 0


def test_a_count_without_changes_has_a_standard_error() -> None:
    right = np.ones(100, bool)
    assert counted_drop(right, right) == (0, 0.01)  # the standard error is not 0 without changes
    lost, error = counted_drop(right, np.arange(100) >= 8)
    assert lost == pytest.approx(0.08)
    assert error == pytest.approx(0.03)
