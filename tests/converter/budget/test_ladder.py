"""Recipe `auto` end to end, on a small network."""

import dataclasses
import importlib.util
import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from converter import Budget, Recipe, Result, Settings, convert, convert_within
from converter.budget.mixed import BASE
from converter.pipeline.search_record import Search
from converter.recipes.builtin import RECIPES
from converter.recipes.overrides import with_bits
from passes.errors import BudgetError, UsageError
from passes.numerics.error import sqnr_db
from passes.weights.learned_rounding import LearnedRounding
from passes.weights.rtn import Rtn
from tests.support.networks import images, network, prepared, random, run, wide

DATA = images(64, 3, 12, 12)
UNSEEN = images(64, 3, 12, 12, seed=9)


class Count:
    """Progress callback that counts the finished steps."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()

    def __call__(self, what: str, done: int, total: int) -> None:
        self.done[what] += done == total


def searched(result: Result) -> Search:
    assert result.search is not None
    return result.search


def uniform(model: onnx.ModelProto, limit: int, recipe: Recipe = BASE) -> Result:
    """Quantize all layers to 4 bits, on as many calibration images as a search."""
    return convert(model, DATA, recipe=recipe, settings=Settings(limit=limit))


@pytest.mark.slow
def test_mixed_bits_beat_uniform_ones_at_the_same_bytes() -> None:
    plain = uniform(wide(), 48)
    size = plain.model.ByteSize()
    mixed = convert_within(wide(), DATA, Budget(max_bytes=size), settings=Settings(limit=48))
    assert mixed.model.ByteSize() <= size
    search = searched(mixed)
    assert {"int8", "int4", "mixed"} <= {attempt.name for attempt in search.attempts}
    assert len(search.effects) == len(mixed.layers)
    bits = {layer.name: layer.bits for layer in mixed.layers}
    assert bits["faint"] < bits["large"]
    reference = run(wide(), UNSEEN)[0]
    assert sqnr_db(reference, run(mixed.model, UNSEEN)[0]) > sqnr_db(reference, run(plain.model, UNSEEN)[0]) + 2


@pytest.mark.slow
def test_the_attempt_at_4_bits_has_the_block_size_of_mixed_bits() -> None:
    plain, smaller_blocks = (uniform(wide(), 48, recipe).model.ByteSize() for recipe in (BASE, RECIPES["int4"]))
    search = searched(convert_within(wide(), DATA, Budget(max_bytes=plain), settings=Settings(limit=48)))
    four = next(attempt.bytes for attempt in search.attempts if attempt.name == "int4")
    assert abs(four - plain) < abs(four - smaller_blocks) / 2


@pytest.mark.slow
def test_an_allowed_drop_makes_the_file_smaller() -> None:
    sizes = []
    for drop in (2.0, 100.0):
        result = convert_within(wide(), DATA, Budget(max_drop=drop), settings=Settings(limit=32))
        (reached,) = {attempt.drop for attempt in searched(result).attempts if attempt.bytes == result.model.ByteSize()}
        assert reached is not None
        assert reached <= drop
        sizes.append(result.model.ByteSize())
    assert sizes[1] < sizes[0]
    large = [
        layer for layer in result.layers if np.prod(layer.shape) > 1000
    ]  # in small layers the added nodes cost more than the bits
    assert {layer.bits for layer in large} == {2}  # any drop is allowed


@pytest.mark.slow
def test_the_ladder_ends_at_the_first_file_within_the_budget() -> None:
    result = convert_within(wide(), DATA, Budget(max_bytes=100_000), settings=Settings(limit=32))
    assert result.recipe.name == "int8"
    assert [attempt.name for attempt in searched(result).attempts] == ["int8"]
    both = convert_within(wide(), DATA, Budget(max_bytes=18_200, max_drop=50.0), settings=Settings(limit=32))
    names = [attempt.name for attempt in searched(both).attempts]
    assert searched(both).attempts[-1].holds
    assert not any(attempt.holds for attempt in searched(both).attempts[:-1])
    assert names[0] == "int8"


@pytest.mark.slow
def test_with_labels_the_drop_is_one_of_accuracy() -> None:
    scores = run(wide(), DATA)[0]
    labelled = convert_within(
        wide(), (DATA, scores.argmax(axis=1)), Budget(max_drop=100.0), settings=Settings(limit=32)
    )
    bare = convert_within(wide(), DATA, Budget(max_drop=100.0), settings=Settings(limit=32))
    assert searched(labelled).drop_of == "top-1 accuracy"
    assert searched(bare).drop_of == "agreement with float"
    first, second = (
        searched(result).attempts[0] for result in (labelled, bare)
    )  # the labels are the float network's own classes
    assert first.counted_drop == second.counted_drop
    assert first.drop == pytest.approx(second.drop, rel=1e-3)


@pytest.mark.slow
def test_no_file_keeps_the_budget() -> None:
    with pytest.raises(BudgetError) as caught:
        convert_within(wide(), DATA, Budget(max_bytes=13_000), settings=Settings(limit=32))
    message = str(caught.value)
    assert "no file is within at most 13,000 bytes, and none was written" in message
    fewest = re.search(r"bits chosen layer by layer would take about ([\d,]+) bytes or more", message)
    assert fewest is not None
    bits = dict.fromkeys(prepared(wide()).layers(), 2)
    least = uniform(wide(), 32, with_bits(BASE, bits))
    assert int(fewest[1].replace(",", "")) == pytest.approx(least.model.ByteSize(), rel=0.1)
    assert "nearest of" in message
    search = caught.value.search
    assert isinstance(search, Search)
    smallest = min(attempt.bytes for attempt in search.attempts)
    assert f"`max_bytes={smallest}` would accept it" in message
    assert not any(attempt.holds for attempt in search.attempts)


@pytest.mark.slow
def test_eight_bits_by_gptq_follow_if_int8_drops_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    crude = dataclasses.replace(RECIPES["int8"], passes=(*RECIPES["int8"].passes[:-1], Rtn(bits=2)))
    monkeypatch.setattr("converter.budget.ladder.RECIPES", {"int8": crude})
    search = searched(convert_within(wide(), DATA, Budget(max_drop=3.0), settings=Settings(limit=48)))
    first, second = search.attempts[:2]
    assert (first.name, second.name, first.holds, second.holds) == ("int8", "int8-gptq", False, True)
    assert set(second.layer_bits.values()) == {8}
    monkeypatch.setattr("converter.budget.ladder.with_bits", lambda *_: crude)
    with pytest.raises(
        BudgetError, match="fewer bits lose more accuracy and run no faster, so no other file was tried"
    ) as caught:
        convert_within(wide(), DATA, Budget(max_drop=0.1), settings=Settings(limit=48))
    assert isinstance(caught.value.search, Search)
    names = [attempt.name for attempt in caught.value.search.attempts]
    assert names[:2] == ["int8", "int8-gptq"]
    assert set(names[2:]) == {"int8-exact"}


def test_the_search_ends_at_once_if_int8_exceeds_the_latency() -> None:
    with pytest.raises(BudgetError, match=r"int8, which takes [\d.]+ ms; fewer bits .* run no faster") as caught:
        convert_within(wide(), DATA, Budget(max_latency=1e-4), settings=Settings(limit=32))
    assert isinstance(caught.value.search, Search)
    assert len(caught.value.search.attempts) == 1


def test_a_given_recipe_is_the_only_attempt() -> None:
    result = convert_within(wide(), DATA, Budget(max_drop=100.0), recipe="int4", settings=Settings(limit=32))
    assert [attempt.name for attempt in searched(result).attempts] == ["int4"]
    with pytest.raises(BudgetError, match="nearest of 1 is int4, which takes"):
        convert_within(wide(), DATA, Budget(max_bytes=100), recipe="int4", settings=Settings(limit=32))


@pytest.mark.parametrize(
    ("calibration", "settings", "message"),
    [
        (None, {}, "needs calibration data"),
        (DATA[:1], {}, "samples that do not calibrate; give 2 samples or more"),
        (DATA, {"target": "qnn"}, "`max_latency=` is measured on this machine's CPU, not on target 'qnn'"),
    ],
)
def test_refusals(calibration: object, settings: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        convert_within(wide(), calibration, Budget(max_latency=1000.0), target=settings.get("target", "cpu"))


def test_a_drop_needs_classes() -> None:
    nodes = [helper.make_node("Conv", ["input", "w"], ["out"], name="conv")]
    maps = network(nodes, {"w": random(4, 3, 3, 3)}, {"input": ["N", 3, 12, 12]}, {"out": ["N", 4, 10, 10]})
    with pytest.raises(UsageError, match=r"`max_drop=` needs class scores .* is \[\d+, 4, 10, 10\]; use `metric=`"):
        convert_within(maps, DATA, Budget(max_drop=1.0), settings=Settings(limit=32))
    result = convert_within(maps, DATA, Budget(max_bytes=100_000), settings=Settings(limit=32))
    assert searched(result).attempts[0].drop is None


@pytest.mark.slow
def test_an_interrupted_search_is_resumed(tmp_path: Path) -> None:
    budget = Budget(max_bytes=18_200)
    whole = convert_within(wide(), DATA, budget, settings=Settings(limit=32))

    def stop(what: str, done: int, total: int) -> None:
        if what == "effects of layers" and done == 3 < total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_within(wide(), DATA, budget, settings=Settings(limit=32), cache=tmp_path, progress=stop)
    assert len(list(tmp_path.rglob("effect-*.npz"))) == 3
    counts = Count()
    resumed = convert_within(wide(), DATA, budget, settings=Settings(limit=32), cache=tmp_path, progress=counts)
    attempts = searched(resumed).attempts
    assert [(a.layer_bits, a.bytes, a.sqnr_db) for a in attempts] == [
        (a.layer_bits, a.bytes, a.sqnr_db) for a in searched(whole).attempts
    ]
    assert counts.done["rtn"] == 0  # int8 was judged before the interruption
    assert run(resumed.model, UNSEEN)[0].tobytes() == run(whole.model, UNSEEN)[0].tobytes()
    last = Count()
    convert_within(wide(), DATA, budget, settings=Settings(limit=32), cache=tmp_path, progress=last)
    assert last.done["gptq"] == 1  # only the best file is made again


@pytest.mark.parametrize(("drop", "warned"), [(3.0, True), (3.2, False)])
def test_a_drop_smaller_than_one_image_is_worth_a_warning(
    drop: float, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """One of 32 held-out samples is 3.1 points."""
    plain = RECIPES["int8"]
    convert_within(wide(), DATA, Budget(max_drop=drop), recipe=plain, settings=Settings(limit=32))
    expected = "only 32 samples judge the files, so one sample is 3.1 points, more than `max_drop=3`"
    assert any(message.startswith(expected) for message in caplog.messages) is warned


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_learned_rounding_is_the_last_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last rung is tried where 8 bits keep the drop, and where no file within the bytes does.

    Mixed bits are 2 bits everywhere here, rounded to nearest. The limit of 10 points is far from both on every
    machine: 8 bits lose at most 3 points, and 2 bits lose 69.
    """
    crude = dataclasses.replace(BASE, passes=(*BASE.passes[:-1], Rtn(bits=2)))
    monkeypatch.setattr("converter.budget.mixed.with_bits", lambda *_: crude)
    monkeypatch.setattr("converter.budget.ladder.LearnedRounding", lambda: LearnedRounding(steps=2))
    try:
        search: object = convert_within(
            wide(), DATA, Budget(max_bytes=18_200, max_drop=10.0), settings=Settings(limit=32)
        ).search
    except BudgetError as error:  # learned rounding may or may not meet the budget
        search = error.search
    assert isinstance(search, Search)
    names = [attempt.name for attempt in search.attempts]
    assert names[:4] == ["int8", "int4", "int3", "int8-gptq"]
    assert set(names[4:-1]) == {"mixed"}
    assert names[-1] == "mixed-learned"
    assert not any(attempt.holds for attempt in search.attempts[:-1])
    assert search.attempts[3].drop is not None
    assert search.attempts[3].drop < 5
    assert min(attempt.drop or 0.0 for attempt in search.attempts[4:-1]) > 20
    assert max(attempt.bytes for attempt in search.attempts[4:-1]) <= 18_200
