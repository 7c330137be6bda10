"""A conversion with a cache: it goes on where it stopped, and uses what is the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter import Settings, convert
from converter.budget.ladder import convert_within
from converter.budget.limits import Budget
from converter.cache.stored_values import pack
from converter.pipeline.search_record import Search
from passes.errors import BudgetError, DataError
from tests.support.models import SIDE, small_cnn

X = np.random.default_rng(0).standard_normal((40, 3, SIDE, SIDE)).astype(np.float32)


class Stopped(Exception):
    """Stands for a kill."""


def converted(folder: Path | None, recipe: str = "int4", data: Any = X, **options: Any) -> bytes:
    made = convert(small_cnn(), data, recipe=recipe, settings=Settings(cache=folder, **options))
    return bytes(made.model.SerializeToString(deterministic=True))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Names of the layers that are solved, and one entry for every measurement of statistics."""
    from converter.calibration.solving import solve_layer
    from converter.calibration.statistics import calibrate

    counted: dict[str, list[str]] = {"layers": [], "statistics": []}

    def solving(model: Any, layer_pass: Any, layer: Any, *rest: Any) -> Any:
        if layer_pass.wants_moments:
            counted["layers"].append(layer.name)
        return solve_layer(model, layer_pass, layer, *rest)

    def calibrating(*arguments: Any, **named: Any) -> Any:
        counted["statistics"].append("")
        return calibrate(*arguments, **named)

    monkeypatch.setattr("converter.calibration.sequential.solve_layer", solving)
    monkeypatch.setattr("converter.pipeline.shards.calibrate", calibrating)
    return counted


@pytest.mark.parametrize("solved", [1, 3])
def test_a_conversion_goes_on_at_the_layer_where_it_stopped(
    tmp_path: Path, calls: dict[str, list[str]], solved: int
) -> None:
    undisturbed = converted(None)
    names = list(calls["layers"])
    assert len(names) == 4

    def stop(step: str, done: int, _: int) -> None:
        if step == "gptq" and done == solved:
            raise Stopped

    calls["layers"].clear()
    with pytest.raises(Stopped):
        convert(small_cnn(), X, recipe="int4", settings=Settings(cache=tmp_path), progress=stop)
    assert calls["layers"] == names[:solved]
    calls["layers"].clear()
    calls["statistics"].clear()
    assert converted(tmp_path) == undisturbed
    assert calls == {"layers": names[solved:], "statistics": []}
    calls["layers"].clear()
    assert converted(tmp_path) == undisturbed
    assert calls["layers"] == []


def test_the_report_of_a_resumed_conversion_is_the_same(tmp_path: Path) -> None:
    first, second = (convert(small_cnn(), X, recipe="int4", settings=Settings(cache=tmp_path)) for _ in range(2))
    for one, other in zip(first.passes, second.passes, strict=True):
        assert (one.name, one.changed, one.notes) == (other.name, other.changed, other.notes)
    assert first.layers == second.layers


def test_another_recipe_uses_the_statistics(tmp_path: Path, calls: dict[str, list[str]]) -> None:
    converted(tmp_path, "int8")
    assert calls["statistics"]
    calls["statistics"].clear()
    assert converted(tmp_path, "int4") == converted(None, "int4")
    alone = len(calls["statistics"])
    calls["statistics"].clear()
    converted(tmp_path, "int8-gptq")
    assert alone > 0
    assert calls["statistics"] == []


def test_whatever_matters_is_looked_up(tmp_path: Path, calls: dict[str, list[str]]) -> None:
    """Other samples, another seed, other weights and other bits: nothing of the first conversion is used."""
    converted(tmp_path)
    layers = list(calls["layers"])
    other_data, heavier = X.copy(), small_cnn(seed=1)
    other_data[0, 0, 0, 0] += 1
    for change in (
        lambda: converted(tmp_path, data=other_data),
        lambda: converted(tmp_path, seed=5),
        lambda: convert(heavier, X, recipe="int4", settings=Settings(cache=tmp_path)),
        lambda: convert(small_cnn(), X, recipe="int4", bits={"stem": 3}, settings=Settings(cache=tmp_path)),
        lambda: convert(small_cnn(), X, recipe="int4", target="qnn", settings=Settings(cache=tmp_path)),
    ):
        calls["layers"].clear()
        change()
        assert calls["layers"] == layers
    calls["layers"].clear()
    converted(tmp_path)
    assert calls["layers"] == []


@pytest.mark.parametrize("damage", ["truncated", "another layer", "codes out of range", "no solution"])
def test_a_damaged_solution_is_refused(tmp_path: Path, damage: str) -> None:
    converted(tmp_path)
    files = sorted(tmp_path.glob("*/layer-*.npz"))
    assert len(files) == 4
    if damage == "truncated":
        files[0].write_bytes(files[0].read_bytes()[:-30])
    elif damage == "another layer":
        files[0].write_bytes(files[1].read_bytes())
    else:
        with np.load(files[0], allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        if damage == "no solution":
            arrays |= pack(("text",))
        else:
            codes = next(name for name, array in arrays.items() if array.dtype == np.int8 and array.size > 8)
            arrays[codes] = np.full_like(arrays[codes], 100)
        np.savez(files[0], **arrays)
    with pytest.raises(DataError, match=rf"{files[0].name}.* delete it"):
        converted(tmp_path)
    files[0].unlink()
    assert converted(tmp_path) == converted(None)


def test_the_attempts_of_a_search_share_statistics(tmp_path: Path, calls: dict[str, list[str]]) -> None:
    with pytest.raises(BudgetError) as stopped:
        convert_within(small_cnn(), X, Budget(max_bytes=1000), cache=tmp_path, settings=Settings(limit=24))
    search = stopped.value.search
    assert isinstance(search, Search)
    # Ranges and the trial of two rules for them, for the graph of int8 and for that of all other attempts.
    assert len(calls["statistics"]) <= 4 < 2 * len(search.attempts)
