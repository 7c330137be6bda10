"""8 bits that drop too much: what costs most stays in float, until the drop is within the budget."""

from pathlib import Path

import pytest

from converter import Budget, Result, Settings, convert_within
from converter.budget import sensitivity
from converter.budget.float_sources import RUNG
from converter.pipeline.search_record import BudgetAttempt
from tests.support.graphs import array
from tests.support.outlier_network import SHAPE, with_outlier

DATA = array(400, *SHAPE)


def attempts(result: Result) -> tuple[BudgetAttempt, ...]:
    assert result.search is not None
    return result.search.attempts


def test_a_drop_that_8_bits_exceed_is_kept_with_floats() -> None:
    result = convert_within(with_outlier(), DATA, Budget(max_drop=0.8), settings=Settings(limit=64))
    names = [attempt.name for attempt in attempts(result)]
    assert names[:2] == ["int8", "int8-gptq"]
    assert set(names[2:]) == {RUNG}
    last = attempts(result)[-1]
    assert last.drop is not None
    assert last.drop <= 0.8
    assert last.sqnr_db > attempts(result)[1].sqnr_db + 2
    assert "second" in {layer.name for layer in result.layers if layer.reason or layer.activation_bits == 32}


def test_a_resumed_search_measures_no_source_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget, settings = Budget(max_drop=0.8), Settings(limit=64)
    whole = convert_within(with_outlier(), DATA, budget, settings=settings, cache=tmp_path)

    def refused(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(sensitivity, "measure", refused)
    resumed = convert_within(with_outlier(), DATA, budget, settings=settings, cache=tmp_path)
    assert [each.bytes for each in attempts(resumed)] == [each.bytes for each in attempts(whole)]
