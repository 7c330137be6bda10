"""The SQNR of every output over a few runs."""

import math

import numpy as np

from converter.runtime.output_errors import output_errors

ONES = np.ones((1, 4), np.float32)


def test_runs_are_pooled() -> None:
    """20 dB: a hundredth of the power."""
    errors = output_errors([[ONES], [ONES]], [[ONES * 0.9], [ONES * 1.1]], ["y"])
    assert math.isclose(errors["y"], 20.0, abs_tol=1e-4)


def test_float_outputs_hide_integers() -> None:
    """The index of the highest score follows the last digits of the scores."""
    assert output_errors([[ONES, np.array([1])]], [[ONES, np.array([2])]], ["scores", "best"]) == {"scores": math.inf}


def test_integers_are_compared_if_there_is_nothing_else() -> None:
    assert output_errors([[np.array([3])]], [[np.array([3])]], ["best"]) == {"best": math.inf}
    assert output_errors([[np.array([3])]], [[np.array([0])]], ["best"]) == {"best": 0.0}


def test_another_shape_type_or_nan_is_the_worst() -> None:
    nan = np.array([[1, 1, 1, np.nan]], np.float32)
    for other in (ONES[:, :3], ONES.astype(np.int64), nan):
        assert output_errors([[ONES]], [[other]], ["y"]) == {"y": -math.inf}
    assert output_errors([[nan]], [[nan * 1]], ["y"]) == {"y": math.inf}


def test_sequences_and_maps_are_left_out() -> None:
    assert output_errors([[ONES, [{0: 1.0}]]], [[ONES, [{0: 2.0}]]], ["y", "map"]) == {"y": math.inf}
    assert output_errors([[["a"]]], [[["b"]]], ["names"]) == {}


def test_an_output_of_zeros_may_have_last_digits() -> None:
    zeros = np.zeros((1, 4), np.float32)
    assert output_errors([[zeros]], [[zeros + 1e-9]], ["y"]) == {"y": math.inf}
    assert output_errors([[zeros]], [[zeros + 1]], ["y"]) == {"y": -math.inf}
