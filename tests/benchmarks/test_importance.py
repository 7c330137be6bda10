"""Bits by gradients and by measured errors: the importance, the choices, and the rows."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from benchmarks import importance
from benchmarks.importance import CHOICES, Network, by_rank, gradient_importance, greedy
from benchmarks.shared_data import MissingData
from converter.budget.effects import BITS, prepare_layers
from converter.budget.mixed import BASE
from converter.data.dataset import Dataset, load_data
from converter.data.inputs import input_specs
from converter.targets.catalog import find_target
from passes.numerics.allocation import NoAllocation, allocate
from tests.support.networks import images, network, quiet, random, run, wide

COST = np.array([[20.0, 30, 40, 80], [20, 30, 40, 80], [20, np.inf, np.inf, 40]])


def test_importance_is_weight_times_gradient() -> None:
    """Of one layer y = W x + b, the cross entropy with its own prediction k has the gradient (softmax(y) - e_k) x'."""
    weight, bias, x = random(5, 8), random(5, seed=1), images(12, 8)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], "fc", transB=1)
    model = network([node], {"w": weight, "b": bias}, {"x": ["N", 8]}, {"y": ["N", 5]})
    data = load_data(x, input_specs(model))
    prepared = prepare_layers(model, BASE, find_target("cpu"), data, 1 << 20, quiet)
    scores = x @ weight.T + bias
    slopes = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)  # [n, o]
    slopes[np.arange(12), scores.argmax(1)] -= 1
    expected = np.abs(slopes[:, :, None] * x[:, None] * weight).sum((1, 2)).mean()
    np.testing.assert_allclose(gradient_importance(prepared, data), [expected], rtol=1e-4)


def test_greedy_gives_bits_where_they_help_most() -> None:
    value = np.array([[9.0, 6, 3, 0], [100, 50, 25, 0], [8, 4, 2, 0]])
    np.testing.assert_array_equal(greedy(value, COST, 60), [0, 0, 0])
    np.testing.assert_array_equal(greedy(value, COST, 70), [0, 1, 0])
    np.testing.assert_array_equal(greedy(value, COST, 1000), [3, 3, 3])
    for limit in range(60, 200, 7):
        choices, best = greedy(value, COST, limit), allocate(value, COST, limit)
        rows = np.arange(3)
        assert COST[rows, choices].sum() <= limit
        assert value[rows, choices].sum() >= value[rows, best].sum()


def test_the_highest_ranks_get_most_bits() -> None:
    np.testing.assert_array_equal(by_rank(np.array([1.0, 2, 3]), COST, 85), [0, 2, 0])  # no 4 bits for the last layer
    np.testing.assert_array_equal(by_rank(np.array([2.0, 1, 3]), COST, 85), [2, 0, 0])
    np.testing.assert_array_equal(by_rank(np.array([2.0, 1, 3]), COST, 100), [2, 2, 0])


def test_too_few_bytes() -> None:
    message = "the smallest total is 60, the limit 59"
    with pytest.raises(NoAllocation, match=message):
        greedy(COST, COST, 59)
    with pytest.raises(NoAllocation, match=message):
        by_rank(COST[:, 0], COST, 59)


def _labelled(model: onnx.ModelProto, count: int, seed: int) -> Dataset:
    x = images(count, 3, 12, 12, seed=seed)
    return load_data((x, run(model, x)[0].argmax(axis=1)), input_specs(model))


@pytest.mark.parametrize("search", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_command(
    search: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = Network("small", wide, lambda model, count: (_labelled(model, count, 1), _labelled(model, 40, 2)))
    monkeypatch.setattr(importance, "NETWORKS", {"small": small})
    path = tmp_path / "rows.json"
    arguments = ["--networks", "small", "--calibrate", "16", "--images", "30", "--json", str(path)]
    assert importance.main([*arguments, *(["--search"] if search else [])]) == 0
    assert "gradients, greedy" in capsys.readouterr().out
    rows = json.loads(path.read_text())
    assert [row["choice"] for row in rows[:3]] == ["float", "2 bits everywhere", "3 bits everywhere"]
    assert [row["choice"] for row in rows[3:]] == 2 * [*CHOICES, *(["--max-bytes"] if search else [])]
    assert {row["images"] for row in rows} == {30}
    assert [row["mean_bits"] for row in rows[:3]] == [32, 2, 3]
    budgets = {row["budget"] for row in rows[3:]}
    assert budgets == {rows[2]["bytes"], (rows[1]["bytes"] + rows[2]["bytes"]) // 2}
    for row in rows[3:]:
        assert row["bytes"] <= row["budget"]
        assert set(row["layer_bits"].values()) <= set(BITS)
        assert row["sqnr_db"] > 0
        assert row["cpu_seconds"] > 0


def test_images_without_labels(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def unlabelled(model: onnx.ModelProto, count: int) -> tuple[Dataset, Dataset]:
        return _labelled(model, count, 1), load_data(images(20, 3, 12, 12, seed=2), input_specs(model))

    monkeypatch.setattr(importance, "NETWORKS", {"small": Network("small", wide, unlabelled)})
    assert importance.main(["--networks", "small", "--calibrate", "16", "--images", "20"]) == 1
    assert "the images of small have no labels" in capsys.readouterr().err


def test_infinity_is_null(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = importance.Row("small", None, "2 bits everywhere", 2.0, {"a": 2}, 100, float("-inf"), 10.0, 20, 0.0)
    monkeypatch.setattr(importance, "NETWORKS", {"small": Network("small", wide, lambda *_: pytest.fail("opened"))})
    monkeypatch.setattr(importance, "measured", lambda *_: [row])
    path = tmp_path / "rows.json"
    assert importance.main(["--networks", "small", "--json", str(path)]) == 0
    assert "Infinity" not in path.read_text()
    assert json.loads(path.read_text())[0]["sqnr_db"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--networks", "none"], "invalid choice: 'none'"),
        (["--images", "0"], "--calibrate and --images must be at least 1"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        importance.main(arguments)
    assert message in capsys.readouterr().err


def test_missing_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing() -> onnx.ModelProto:
        raise MissingData("no weights in /nowhere; set CONVERT_ONNX_DATA to the folder that holds it")

    network = Network("missing", missing, importance.NETWORKS["resnet20"].images)
    monkeypatch.setattr(importance, "NETWORKS", {"missing": network})
    assert importance.main(["--networks", "missing"]) == 1
    assert capsys.readouterr().err.startswith("Error: no weights in /nowhere")
