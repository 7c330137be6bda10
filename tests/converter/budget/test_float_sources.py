"""8 bits that drop too much: what costs most stays in float, until the drop is within the budget."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from converter import Budget, Result, Settings, convert_within
from converter.budget import sensitivity
from converter.budget.float_sources import RUNG
from converter.pipeline.search_record import BudgetAttempt
from tests.support.graphs import array, build, node
from tests.support.outlier_network import SHAPE, with_outlier

DATA = array(400, *SHAPE)


def loud() -> onnx.ModelProto:
    """Two convolutions and a Gemm. The first convolution adds 1,000 to a channel, which the second one makes small."""
    nodes = [
        node("Conv", ["x", "w1", "bias"], ["a"], name="first", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"], name="relu"),
        node("Conv", ["b", "w2"], ["c"], name="second", pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["d"], name="last relu"),
        node("MaxPool", ["d"], ["e"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["e"], ["f"], name="flatten"),
        node("Gemm", ["f", "w3"], ["y"], name="head"),
    ]
    second = array(8, 8, 3, 3, seed=1)
    second[:, 0] /= 1000
    bias = np.array([1000, *7 * [0]], np.float32)
    constants = {"w1": array(8, 3, 3, 3), "bias": bias, "w2": second, "w3": array(288, 64, seed=2)}
    return build(nodes, constants, ["n", *SHAPE])


def attempts(result: Result) -> tuple[BudgetAttempt, ...]:
    assert result.search is not None
    return result.search.attempts


def test_a_drop_that_8_bits_exceed_is_kept_with_floats() -> None:
    result = convert_within(with_outlier(), DATA, Budget(max_drop=0.8), settings=Settings(limit=64))
    names = [attempt.name for attempt in attempts(result)]
    assert names[:2] == ["int8", "int8-gptq"]
    assert names[2] == RUNG
    last = [attempt for attempt in attempts(result) if attempt.name == RUNG][-1]
    assert last.drop is not None
    assert last.drop <= 0.8
    assert last.sqnr_db > attempts(result)[1].sqnr_db + 2
    assert "second" in {layer.name for layer in result.layers if layer.reason or layer.activation_bits == 32}


def test_fewer_bits_leave_the_same_in_float() -> None:
    """The activation between both convolutions has a channel of 1,000. 4-bit weights cost less than its 8 bits."""
    result = convert_within(loud(), DATA, Budget(max_drop=12), settings=Settings(limit=64))
    tried = {attempt.name: attempt for attempt in attempts(result)}
    assert list(tried)[:4] == ["int8", "int8-gptq", RUNG, "int4"]
    assert [tried[name].holds for name in ("int8", "int8-gptq", RUNG, "int4")] == [False, False, True, True]
    assert result.model.ByteSize() < 0.75 * tried["int8"].bytes
    floats = {layer.name for layer in result.layers if layer.activation_bits == 32 and layer.bits < 32}
    assert "second" in floats


def test_a_resumed_search_measures_no_source_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget, settings = Budget(max_drop=0.8), Settings(limit=64)
    whole = convert_within(with_outlier(), DATA, budget, settings=settings, cache=tmp_path)

    def refused(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(sensitivity, "measure", refused)
    resumed = convert_within(with_outlier(), DATA, budget, settings=settings, cache=tmp_path)
    assert [each.bytes for each in attempts(resumed)] == [each.bytes for each in attempts(whole)]
