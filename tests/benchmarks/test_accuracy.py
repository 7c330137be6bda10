"""A loss over several calibration sets is the mean over the sets."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import accuracy
from converter import Recipe, find_recipe
from converter.data.dataset import Dataset, load_data
from converter.data.inputs import input_specs
from converter.evaluation.evaluate import Measurement
from tests.support.networks import images, quiet, resnet

LOST = {"int8-0": 1.0, "int8-1": 3.0, "int4-0": 5.0, "int4-1": 10.0}  # points


def measured(name: str) -> Measurement:
    """A file whose accuracy is the given number of points below 90 %, with an SQNR of as many dB."""
    lost = LOST.get(name, 0.0)
    return Measurement(name, 1000, 100, 0.9 - lost / 100, 0.99, lost or None, None, None)


def sets(count: int) -> list[Dataset]:
    specs = input_specs(resnet())
    return [load_data(images(8, 3, 12, 12, seed=seed), specs) for seed in range(count)]


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the recipes of the conversions without converting."""
    recipes: list[str] = []

    def convert(*_: Any, recipe: Recipe, **__: Any) -> SimpleNamespace:
        recipes.append(recipe.name)
        return SimpleNamespace(save=recipes.count, seconds=2.0 * len(recipes))

    def evaluate(paths: list[Path], *_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(models=tuple(measured(path.stem) for path in paths))

    monkeypatch.setattr(accuracy, "convert", convert)
    monkeypatch.setattr(accuracy, "evaluate", evaluate)
    return recipes


def test_a_loss_is_the_mean_over_the_sets_of_its_recipe(converted: list[str]) -> None:
    limits = [(find_recipe("int8"), 2.0), (find_recipe("int4"), 2.0)]
    eight, four = accuracy.accuracy_losses("net", resnet(), sets(2), sets(1)[0], limits, quiet)
    assert converted == ["int8", "int8", "int4", "int4"]
    assert eight.measured == pytest.approx(2.0)
    assert four.measured == pytest.approx(7.5)
    assert (eight.holds, four.holds) == (True, False)
    assert "mean of 2 sets of 8 calibration images (+5.00, +10.00)" in four.note
    assert "7.5 dB" in four.note
    assert "7 s" in four.note


def test_with_one_set_there_is_no_mean(converted: list[str]) -> None:
    (bar,) = accuracy.accuracy_losses("net", resnet(), sets(1)[0], sets(1)[0], [(find_recipe("int8"), 2.0)], quiet)
    assert converted == ["int8"]
    assert bar.measured == pytest.approx(1.0)
    assert "mean" not in bar.note
