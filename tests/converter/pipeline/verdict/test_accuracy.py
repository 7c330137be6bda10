"""The word on accuracy: which evidence decides, and where the limits lie."""

import math
from typing import Any

import pytest

from converter.evaluation.evaluate import Evaluation, Measurement
from converter.metrics.metric_run import MetricFacts
from converter.pipeline.trial_run import Fidelity
from converter.pipeline.verdict.accuracy import accuracy


def measured(**values: Any) -> Measurement:
    figures = {"top1": None, "agreement": None, "sqnr_db": None, "latency_ms": None, "speedup": None, "metric": None}
    return Measurement(model="m", bytes=1000, images=500, **(figures | values))


def evaluation(first: dict[str, Any], last: dict[str, Any], metric: MetricFacts | None = None) -> Evaluation:
    return Evaluation({"images": 500}, (measured(**first), measured(**last)), metric=metric)


def word(found: Evaluation | None, fidelity: Fidelity | None = None) -> str:
    return accuracy(found, fidelity).word


@pytest.mark.parametrize(
    ("lost", "expected"),
    [(-1.0, "excellent"), (0.2, "excellent"), (0.9, "good"), (2.5, "look at it"), (3.5, "bad")],
)
def test_points_of_top1(lost: float, expected: str) -> None:
    found = evaluation({"top1": 0.8}, {"top1": 0.8 - lost / 100, "agreement": 0.1, "sqnr_db": 3.0})
    assert word(found) == expected


@pytest.mark.parametrize(
    ("agreement", "expected"), [(0.995, "excellent"), (0.975, "good"), (0.92, "look at it"), (0.8, "bad")]
)
def test_agreement_decides_without_labels(agreement: float, expected: str) -> None:
    assert word(evaluation({}, {"agreement": agreement, "sqnr_db": 50.0})) == expected


@pytest.mark.parametrize(
    ("sqnr_db", "expected"),
    [
        (math.inf, "excellent"), (31, "excellent"), (25, "good"), (16, "look at it"), (14, "bad"), (-math.inf, "bad"),
    ],
)  # fmt: skip
def test_sqnr_decides_where_there_are_no_classes(sqnr_db: float, expected: str) -> None:
    assert word(evaluation({}, {"sqnr_db": sqnr_db})) == expected
    assert word(None, Fidelity(8, "held out", {"y": sqnr_db, "z": math.inf})) == expected


def test_on_noise_only_a_bad_file_is_known() -> None:
    assert word(None, Fidelity(1, "noise", {"y": 40.0})) == "not known"
    assert word(None, Fidelity(1, "noise", {"y": 4.0})) == "bad"
    assert word(None) == "not known"
    assert word(None, Fidelity(1, "held out", {})) == "not known"


PERCENT, LOSS = MetricFacts("mAP", "%", True, "labels"), MetricFacts("error", "", False, "labels")


@pytest.mark.parametrize(
    ("metric", "first", "last", "expected"),
    [
        (PERCENT, 50.0, 49.8, "excellent"),
        (PERCENT, 50.0, 48.0, "look at it"),
        (LOSS, 2.0, 2.005, "excellent"),
        (LOSS, 2.0, 2.2, "bad"),
        (LOSS, 2.0, 1.5, "excellent"),
        (MetricFacts("PSNR", "dB", True, "labels"), 30.0, 29.7, "good"),
        (MetricFacts("mAP", "%", True, "first model"), None, 98.0, "good"),
        (MetricFacts("cer", "%", False, "first model"), None, 12.0, "bad"),
        (LOSS, 2.0, math.nan, "bad"),
        (PERCENT, 0.0, 0.0, "not known"),
        (MetricFacts("cer", "%", False, "labels"), 89.7, 89.7, "not known"),
        (MetricFacts("cer", "%", False, "labels"), 0.0, 0.1, "excellent"),
    ],
)
def test_a_metric_decides_before_everything_else(
    metric: MetricFacts, first: float | None, last: float, expected: str
) -> None:
    found = evaluation({"metric": first, "top1": 0.9}, {"metric": last, "top1": 0.5, "sqnr_db": 60.0}, metric)
    assert word(found) == expected


def test_a_float_model_that_fails_says_so() -> None:
    answer = accuracy(evaluation({"top1": 0.004}, {"top1": 0.004}), None)
    assert answer.word == "not known"
    assert "the float model itself fails on these data: check labels" in answer.why


def test_a_metric_of_an_unknown_scale_leaves_the_word_to_the_sqnr() -> None:
    own = MetricFacts("mine", "", True, "first model")
    assert word(evaluation({}, {"metric": 17.0, "sqnr_db": 22.0}, own)) == "good"


def test_the_reason_has_the_figures_and_the_number_of_samples() -> None:
    answer = accuracy(evaluation({"top1": 0.8}, {"top1": 0.79}), None)
    assert answer.why == "top-1 79.00 %, float 80.00 % (± 1.82 each), on 500 samples"
    few = accuracy(None, Fidelity(1, "held out", {"y": 22.0})).why
    judged = "on 1 sample that did not calibrate; accuracy was not measured"
    assert few == f"the worst output has 22.0 dB against the float model {judged}"
