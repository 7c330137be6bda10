"""Layers behind a block that has learned: they are solved again on its outputs, and reported."""

import tempfile
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from converter import Recipe, convert  # noqa: E402
from converter.calibration.activation_cache import ActivationCache  # noqa: E402
from converter.calibration.segments import cut  # noqa: E402
from converter.calibration.solving import solve_layer  # noqa: E402
from converter.learn.held_out import HeldOut  # noqa: E402
from converter.learn.learning import learn_rounding  # noqa: E402
from converter.learn.rounding.refine import _Network  # noqa: E402
from converter.learn.rounding.rounding import Outcome  # noqa: E402
from converter.runtime.batch_size import DEFAULT_MEMORY_BUDGET  # noqa: E402
from passes.activations.activation_ranges import ActivationRanges  # noqa: E402
from passes.graph.check import check  # noqa: E402
from passes.graph.normalise.normalise import Normalise  # noqa: E402
from passes.ir.model import Model  # noqa: E402
from passes.report import PassReport  # noqa: E402
from passes.weights.gptq import Gptq  # noqa: E402
from passes.weights.learned_rounding import LearnedRounding  # noqa: E402
from tests.support.networks import dataset, images, quantize, quiet, resnet, wide  # noqa: E402
from tests.support.quantized_state import same  # noqa: E402

X = images(64, 3, 12, 12)


def relearned(monkeypatch: pytest.MonkeyPatch) -> tuple[Model, PassReport]:
    """Learn layer by layer, from GPTQ's codes for the training images. The network's gain is faked."""
    judged = cycle([1.0, 2.0])
    monkeypatch.setattr(_Network, "decibels", lambda _: next(judged))
    monkeypatch.setattr(
        "converter.learn.rounding.refine.hold_out", lambda *_: HeldOut(np.arange(56), np.arange(56, 64))
    )
    model = quantize(resnet(), Gptq(bits=2), X[:56], ranges=True)
    settings = LearnedRounding(granularity="layer", steps=10, batch=16)
    report = learn_rounding(
        model, settings, dataset(model, X), quiet, solver=Gptq(bits=2), memory_budget=DEFAULT_MEMORY_BUDGET, seed=0
    )
    check(model, settings.name)
    return model, report


def test_layers_behind_a_block_that_learned_are_solved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only layers behind are solved again. On unchanged inputs, GPTQ would find the same codes as before."""
    start = quantize(resnet(), Gptq(bits=2), X[:56], ranges=True)
    resolved, report = relearned(monkeypatch)
    names = list(resolved.layers())
    solved = [name for name in names if name in report.changed and "solved again" in report.changed[name].what]
    first = next(name for name in names if name in report.changed)
    assert first not in solved
    assert solved == names[names.index(first) + 1 :]
    assert any((resolved.quantized[name].codes != start.quantized[name].codes).any() for name in solved)
    for name in solved:
        if not report.changed[name].what.startswith("learned"):
            assert report.changed[name].before_db == start.quantized[name].sqnr_db
    learned_layers = sum(change.what.startswith("learned") for change in report.changed.values())
    assert f"{learned_layers} of {len(names)} layers learned" in report.notes[0]


def test_a_layer_is_solved_again_on_the_outputs_of_a_learned_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first block learns only a bias. GPTQ on a network with that bias gives the same codes."""
    start = quantize(resnet(), Gptq(bits=2), X[:56], ranges=True)
    first, *others = start.layers()

    def learn_first(self: _Network, _: Any, inside: Any, *__: Any) -> Any:
        if first not in inside:
            return "left alone"
        layer, bias = inside[first], self.model.bias(inside[first])
        assert bias is not None
        self.model.write(layer, self.model.weight(layer), bias + np.float32(0.3))
        return Outcome(1.0, 2.0, improved=True, moved=0)

    monkeypatch.setattr(_Network, "refine", learn_first)
    model, report = relearned(monkeypatch)
    assert report.changed.keys() == {first, *others}

    original = solve_layer

    def with_bias(work: Model, layer_pass: Any, layer: Any, *rest: Any) -> Any:
        change = original(work, layer_pass, layer, *rest)
        if layer.name == first:
            bias = work.bias(layer)
            assert bias is not None
            work.write(layer, work.weight(layer), bias + np.float32(0.3))
        return change

    monkeypatch.setattr("converter.calibration.sequential.solve_layer", with_bias)
    direct = quantize(resnet(), Gptq(bits=2), X[:56], ranges=True)
    for name in others:
        assert np.array_equal(model.quantized[name].codes, direct.quantized[name].codes)
    assert any((direct.quantized[name].codes != start.quantized[name].codes).any() for name in others)


def test_a_layer_that_cannot_learn_reports_why_when_it_is_solved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    start = quantize(resnet(), Gptq(bits=2), X[:56], ranges=True)
    last = list(start.layers())[-1]
    learn_block = _Network.refine

    def refused(self: _Network, piece: Any, inside: Any, *rest: Any) -> Any:
        return "no form" if last in inside else learn_block(self, piece, inside, *rest)

    monkeypatch.setattr(_Network, "refine", refused)
    _, report = relearned(monkeypatch)
    assert report.changed[last].what.startswith("solved again after layers that learned")
    assert report.changed[last].what.endswith("no form")
    monkeypatch.setattr(_Network, "decibels", lambda _: 1.0)
    model = quantize(resnet(), Gptq(bits=2), X[:56], ranges=True)
    settings = LearnedRounding(granularity="layer", steps=10, batch=16)
    put_back = learn_rounding(
        model, settings, dataset(model, X), quiet, solver=Gptq(bits=2), memory_budget=DEFAULT_MEMORY_BUDGET, seed=0
    )
    assert same(model, start)
    assert put_back.skipped[last] == "no form"


@pytest.mark.slow
def test_activations_beyond_the_budget_go_to_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations in files give the same codes, and the files are deleted in the end."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spill = ActivationCache._spill
    spilled: list[int] = []

    def counted(self: ActivationCache, array: NDArray[Any]) -> Any:
        spilled.append(array.nbytes)
        return spill(self, array)

    monkeypatch.setattr(ActivationCache, "_spill", counted)
    monkeypatch.setattr("converter.calibration.paired_run.batch_size", lambda *_: 16)
    monkeypatch.setattr("converter.learn.rounding.network_check.batch_size", lambda *_: 16)
    results, settings = [], LearnedRounding(steps=4, batch=16)
    for budget in (DEFAULT_MEMORY_BUDGET, 0):
        model = quantize(wide(), Gptq(bits=2), X, ranges=True)
        learn_rounding(model, settings, dataset(model, X), quiet, solver=Gptq(bits=2), memory_budget=budget, seed=0)
        results.append(model)
        assert bool(spilled) is (budget == 0)
    assert same(*results)
    assert not list(tmp_path.iterdir())


def test_tensors_are_dropped_after_their_last_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = []
    leave = _Network.leave

    def watched(self: _Network, piece: Any, learned: bool) -> None:
        leave(self, piece, learned)
        alive.append({name for pair in (self.train, self.judge) for _, name in pair.cache._arrays})

    monkeypatch.setattr(_Network, "leave", watched)
    model, _ = relearned(monkeypatch)
    segments = cut(model.graph, model.layers())
    for index, names in enumerate(alive):
        still_read = {name for segment in segments[index + 1 :] for name in segment.inputs}
        assert names <= still_read
    assert not alive[-1]


def test_a_recipe_reports_layers_that_were_solved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = cycle([1.0, 2.0])
    monkeypatch.setattr(_Network, "decibels", lambda _: next(judged))
    steps = (Normalise(), ActivationRanges(), Gptq(bits=2), LearnedRounding(granularity="layer", steps=10, batch=16))
    result = convert(resnet(), X, recipe=Recipe("r", "", steps))
    assert any("solved again after layers that learned" in layer.note for layer in result.layers)
