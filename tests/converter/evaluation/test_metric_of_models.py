"""Metrics of models: in evaluate, in a conversion, in a budget and on the command line."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import converter
from converter.cli.main import cli
from converter.metrics.detection import MeanAveragePrecision
from passes.errors import UsageError
from tests.support.graphs import array, build, node

SHAPE = ("n", 3, 8, 8)


def detector(noise: float = 0.0) -> onnx.ModelProto:
    """Two outputs: scores [n, 5] and maps [n, 4, 8, 8]."""
    nodes = [
        node("Conv", ["x", "w0"], ["a"], name="stem", pads=[1] * 4),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w1"], ["maps"], name="maps", pads=[1] * 4),
        node("GlobalAveragePool", ["b"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "w2"], ["scores"], name="head"),
    ]
    weights = {"w0": array(8, 3, 3, 3), "w1": array(4, 8, 3, 3), "w2": array(8, 5)}
    weights["w1"] = weights["w1"] + noise * array(4, 8, 3, 3, seed=9)
    return build(nodes, weights, SHAPE, outputs=("scores", "maps"))


X = array(60, *SHAPE[1:])


def test_sqnr_of_every_output_and_the_worst() -> None:
    evaluation = converter.evaluate([detector(), detector(noise=0.1)], X, latency=False)
    first, second = evaluation.models
    assert first.outputs == {}
    assert first.sqnr_db is None
    assert second.outputs["scores"] == math.inf
    assert 15 < second.outputs["maps"] < 25
    assert second.sqnr_db == second.outputs["maps"]


def test_a_metric_without_labels_takes_the_first_model_as_the_truth() -> None:
    evaluation = converter.evaluate([detector(), detector(noise=0.1)], X, latency=False, metric="miou(output='maps')")
    assert evaluation.metric is not None
    assert (evaluation.metric.name, evaluation.metric.unit, evaluation.metric.truth) == ("miou", "%", "first model")
    assert evaluation.models[0].metric is None
    assert evaluation.models[1].metric is not None
    assert 80 < evaluation.models[1].metric < 100


def test_labels_under_another_name_are_said(caplog: pytest.LogCaptureFixture) -> None:
    data = {"x": X, "mask": np.zeros((60, 8, 8), np.int64)}
    for given in (data, {"x": X}):
        caplog.clear()
        converter.evaluate([detector(), detector()], given, latency=False, metric="miou(output='maps')")
        said = [each.getMessage() for each in caplog.records if "metric miou" in each.getMessage()]
        expected = "metric miou reads labels y, and the data have mask: the first model's outputs are the truth"
        assert said == ([expected] if given is data else [])


def test_a_metric_reads_labels_of_any_name(tmp_path: Path) -> None:
    masks = np.zeros((60, 8, 8), np.int64)
    np.savez(tmp_path / "d.npz", x=X, masks=masks)
    (tmp_path / "m.py").write_text(
        "def share(outputs, labels):\n"
        "    best = outputs['maps'].argmax(axis=1)\n"
        "    return (best == labels['masks']).mean(axis=(1, 2))\n"
        "share.unit = 'share'\n"
    )
    metric = f"{tmp_path / 'm.py'}:share"
    evaluation = converter.evaluate([detector(), detector(0.1)], tmp_path / "d.npz", latency=False, metric=metric)
    assert evaluation.metric is not None
    assert (evaluation.metric.name, evaluation.metric.truth) == ("share", "labels")
    assert all(0.1 < (model.metric or 0) < 0.5 for model in evaluation.models)


def test_a_comparison_shows_a_metric_and_every_output() -> None:
    comparison = converter.compare(detector(), detector(noise=0.1), X, metric="miou(output='maps')")
    assert comparison.metric is not None
    assert comparison.metric.truth == "first model"
    before, after = comparison.values
    assert before is None
    assert after is not None
    assert 80 < after < 100
    assert comparison.outputs["scores"] == math.inf
    assert comparison.sqnr_db == comparison.outputs["maps"] == min(comparison.outputs.values())
    assert comparison.to_json()["metric"]["name"] == "miou"


@pytest.mark.parametrize(("metric", "shown"), [("cosine", False), ("top1", True), (None, True)])
def test_equal_classes_are_counted_for_class_scores_only(metric: str | None, shown: bool) -> None:
    """A metric of embeddings says that the first output has no classes, although it has the form of scores."""
    evaluation = converter.evaluate([detector(), detector(noise=0.1)], X, latency=False, metric=metric)
    assert (evaluation.models[1].agreement is not None) == shown
    assert (converter.compare(detector(), detector(noise=0.1), X, metric=metric).agreement is not None) == shown


def test_a_suggestion_looks_at_the_worst_output() -> None:
    """Only the second output is wrong, and its layer is suggested."""
    coarse = converter.find_recipe("int8").with_solver(layer_bits={"maps": 2})
    result = converter.convert(detector(), X, recipe=coarse)
    comparison = converter.compare(detector(), result.model, X)
    suggestion = converter.suggest(detector(), result.model, comparison, X)
    assert suggestion.bits == {"maps": 8}
    assert suggestion.gain_db > 3


def test_labels_that_a_metric_lacks_are_named() -> None:
    def decode(outputs: Any) -> Any:
        return [(np.zeros((0, 4)), np.zeros(0), np.zeros(0))] * len(outputs["maps"])

    class Needy(converter.Metric):
        name = "needy"
        needs = ("depth",)

        def update(self, outputs: Any, labels: Any) -> None: ...

        def value(self) -> float:
            return 0.0

    with pytest.raises(UsageError, match="metric needy needs labels depth, and the data have none"):
        converter.evaluate([detector(), detector()], X, latency=False, metric=Needy)


def test_a_conversion_measures_by_a_metric() -> None:
    settings = converter.Settings(metric="cosine(output='maps')")
    result = converter.convert(detector(), X[:40], evaluation=X[40:], settings=settings)
    assert result.metrics is not None
    assert result.metrics.metric is not None
    assert (result.metrics.models[1].metric or 0) > 0.99
    with pytest.raises(UsageError, match="`metric=` would measure nothing; give `evaluation=` or a budget"):
        converter.convert(detector(), X[:40], settings=settings)
    with pytest.raises(UsageError, match="no metric is named 'cosin'"):
        converter.convert(detector(), X, evaluation=X, settings=converter.Settings(metric="cosin"))


def test_a_budget_holds_the_drop_of_a_metric() -> None:
    """A network that is no classifier: its first output is a map."""
    model = build(
        [
            node("Conv", ["x", "w0"], ["a"], name="stem", pads=[1] * 4),
            node("Relu", ["a"], ["b"]),
            node("Conv", ["b", "w1"], ["maps"], name="maps", pads=[1] * 4),
        ],
        {"w0": array(16, 3, 3, 3), "w1": array(4, 16, 3, 3)},
        SHAPE,
        outputs=("maps",),
    )
    budget = converter.Budget(max_drop=20.0)
    with pytest.raises(UsageError, match="`metric=` to say what may drop"):
        converter.convert_within(model, X, budget)
    result = converter.convert_within(model, X, budget, settings=converter.Settings(metric="miou", limit=40))
    assert result.search is not None
    assert result.search.drop_of == "miou against float"
    kept = result.search.attempts[result.search.kept or 0]
    assert kept.drop is not None
    assert kept.drop <= 20.0
    assert (kept.drop_error or 0) > 0
    assert len(result.search.attempts) > 2


def test_the_command_line_shows_a_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(detector(), "a.onnx")
    onnx.save(detector(0.1), "b.onnx")
    np.savez("d.npz", x=X)
    command = ["evaluate", "a.onnx", "b.onnx", "--data", "d.npz", "--metric"]
    shown = CliRunner().invoke(cli, [*command, "psnr(output='maps')"])
    assert shown.exit_code == 0, shown.output
    assert "psnr" in shown.output
    words = " ".join(shown.output.split())
    assert "psnr: higher is better, the truth is the first model's outputs" in words
    assert "SQNR is that of the worst output; b.onnx: maps" in words
    as_json = CliRunner().invoke(cli, [*command, "top1", "--json"])
    facts = json.loads(as_json.stdout)
    assert facts["metric"] == {"name": "top1", "unit": "%", "higher_is_better": True, "truth": "first model"}
    assert facts["models"][1]["metric"] == 100.0
    bad = CliRunner().invoke(cli, ["evaluate", "a.onnx", "--data", "d.npz", "--metric", "map"])
    assert bad.exit_code == 2
    assert "map(decode='FILE.py:FUNCTION')" in bad.output


@pytest.mark.parametrize(
    "work",
    [
        lambda data, **given: converter.convert(detector(), X, evaluation=data, **given),
        lambda data, **given: converter.convert_within(detector(), data, converter.Budget(max_drop=1.0), **given),
        lambda data, **given: converter.train(detector(), data, **given),
    ],
    ids=["convert", "convert_within", "train"],
)
def test_a_metric_that_fails_stops_the_work_before_it_starts(work: Callable[..., Any]) -> None:
    """A wrong decode() was met after the conversion, which may take an hour."""

    def decode(outputs: Any) -> Any:
        raise ValueError(f"boxes of {sorted(outputs)}")

    labelled = {"x": X, "boxes": [np.zeros((1, 5))] * len(X)}
    metric, steps = converter.Settings(metric=lambda: MeanAveragePrecision(decode)), []
    with pytest.raises(ValueError, match=r"boxes of \['maps', 'scores'\]"):
        work(labelled, settings=metric, progress=lambda *step: steps.append(step))
    assert not steps
