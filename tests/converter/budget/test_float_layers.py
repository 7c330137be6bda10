"""Float layers for a latency that int8 exceeds, with latencies that the test sets."""

from pathlib import Path

import onnx
import pytest

from converter import Budget, Result, Settings, convert_within
from converter.budget import float_layers
from converter.budget.held_out_judge import Judge
from converter.pipeline.search_record import Search
from converter.speed.search import Speed
from passes.activations.float_activations import FloatActivations
from passes.errors import BudgetError
from tests.support.networks import images, wide

DATA = images(48, 3, 12, 12)
SLOW_MS, GAIN = 10.0, 1.25


class Clocks:
    """Files take 10 ms. Files with a layer in float are faster by the gain."""

    def __init__(self, gain: float, layers: tuple[str, ...] = ("faint",)) -> None:
        self.gain, self.layers, self.measured = gain, layers, 0

    def find(self, *_: object) -> Speed:
        self.measured += 1
        return Speed(20.0, SLOW_MS, SLOW_MS / self.gain, self.gain, self.layers, (), (2, 2), (2, 3), (1, 2))

    def latency(self, model: onnx.ModelProto) -> tuple[float, float]:
        facts = {entry.key: entry.value for entry in model.metadata_props}
        own = SLOW_MS / (1.0 if facts["convert_onnx.float_activations"] == "{}" else self.gain)
        return own, 2 * SLOW_MS / own


def clocks(monkeypatch: pytest.MonkeyPatch, gain: float = GAIN, layers: tuple[str, ...] = ("faint",)) -> Clocks:
    clock = Clocks(gain, layers)
    monkeypatch.setattr(float_layers, "find_slow_layers", clock.find)
    monkeypatch.setattr(Judge, "latency", clock.latency)
    return clock


def names(result: Result) -> list[str]:
    assert result.search is not None
    return [attempt.name for attempt in result.search.attempts]


def test_float_activations_meet_a_latency_that_int8_exceeds(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks(monkeypatch)
    result = convert_within(wide(), DATA, Budget(max_latency=9.0), settings=Settings(limit=24))
    assert names(result) == ["int8", "int8-float"]
    assert {layer.name for layer in result.layers if layer.activation_bits == 32} == {"faint"}
    (left,) = (step for step in result.recipe.passes if isinstance(step, FloatActivations))
    assert left.layers == ("faint",)
    assert result.search is not None
    assert [attempt.latency_ms for attempt in result.search.attempts] == [10.0, 8.0]


@pytest.mark.slow
def test_later_rungs_have_the_same_float_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks(monkeypatch)
    result = convert_within(
        wide(), DATA, Budget(max_latency=9.0, max_bytes=18_200, max_drop=100.0), settings=Settings(limit=24)
    )
    assert names(result)[:3] == ["int8", "int8-float", "int4"]
    assert result.search is not None
    assert {attempt.latency_ms for attempt in result.search.attempts[1:]} == {8.0}
    assert result.model.ByteSize() <= 18_200
    assert any(isinstance(step, FloatActivations) for step in result.recipe.passes)


@pytest.mark.parametrize(("gain", "layers"), [(1.03, ("faint",)), (1.0, ())], ids=["too_little", "nothing"])
def test_no_file_is_made_for_too_small_a_gain(
    gain: float, layers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks(monkeypatch, gain, layers)
    with pytest.raises(
        BudgetError, match=r"nearest of 1 is int8, .* run no faster, so no other file was tried"
    ) as caught:
        convert_within(wide(), DATA, Budget(max_latency=9.0), settings=Settings(limit=24))
    assert isinstance(caught.value.search, Search)
    assert [attempt.name for attempt in caught.value.search.attempts] == ["int8"]


def test_an_attempt_fails_if_the_file_does_not_reach_the_measured_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = clocks(monkeypatch)
    monkeypatch.setattr(Judge, "latency", lambda _, model: (clock.latency(model)[0] + 1.5, 2.0))
    with pytest.raises(
        BudgetError, match=r"nearest of 2 is int8-float, which takes 9\.50 ms; fewer bits .* no other file"
    ):
        convert_within(wide(), DATA, Budget(max_latency=9.0), settings=Settings(limit=24))
    assert clock.measured == 1


@pytest.mark.parametrize("budget", [Budget(max_latency=11.0), Budget(max_bytes=100_000)], ids=["kept", "none"])
def test_nothing_is_timed_if_int8_is_fast_enough(budget: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = clocks(monkeypatch)
    assert names(convert_within(wide(), DATA, budget, settings=Settings(limit=24))) == ["int8"]
    assert clock.measured == 0


def test_a_resumed_search_has_the_same_float_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, budget = clocks(monkeypatch), Budget(max_latency=9.0)
    first = convert_within(wide(), DATA, budget, settings=Settings(limit=24), cache=tmp_path)
    clock.layers = ("large",)
    resumed = convert_within(wide(), DATA, budget, settings=Settings(limit=24), cache=tmp_path)
    assert clock.measured == 1
    assert resumed.recipe == first.recipe
    assert resumed.model.graph == first.model.graph
