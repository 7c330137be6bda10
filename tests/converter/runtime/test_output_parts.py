"""Parts of an output that are of different kinds: boxes in pixels beside scores."""

import numpy as np
import pytest

from converter.runtime.output_errors import output_errors
from converter.runtime.output_parts import joined_outputs, parts_of
from tests.support.graphs import array, build, node


def head(axis: int = 1) -> np.ndarray:
    """[1, 84, 64]: 4 rows of pixels, then 80 of scores."""
    boxes = 320 + 100 * array(1, 4, 64, seed=1)
    scores = np.abs(array(1, 80, 64, seed=2)) * 0.01
    scores[:, 17] = 0  # a class that never occurs
    return np.moveaxis(np.concatenate([boxes, scores], axis=1), 1, axis)


@pytest.mark.parametrize(("axis", "index"), [(1, ":, "), (2, ":, :, ")])
def test_boxes_and_scores_are_parts(axis: int, index: str) -> None:
    names = [part.name for part in parts_of("y", [head(axis)], {"y"})]
    assert names == [f"y[{index}:4]", f"y[{index}4:]"]


def test_three_kinds() -> None:
    values = np.concatenate([1000 * array(1, 4, 64), 1e-3 * array(1, 6, 64, seed=1), array(1, 8, 64, seed=2)], axis=1)
    assert [part.name for part in parts_of("y", [values], {"y"})] == ["y[:, :4]", "y[:, 4:10]", "y[:, 10:]"]


@pytest.mark.parametrize(
    ("values", "joined"),
    [
        (head(), set()),  # no Concat makes it
        (array(1, 84, 64), {"y"}),  # all of one kind
        (np.zeros((1, 84, 64), np.float32), {"y"}),
        (np.full((1, 84, 64), np.nan, np.float32), {"y"}),
        (array(64), {"y"}),
        (array(1, 4), {"y"}),  # too few values to tell
        (np.arange(84 * 64).reshape(1, 84, 64), {"y"}),
    ],
)
def test_other_outputs_are_whole(values: np.ndarray, joined: set[str]) -> None:
    (part,) = parts_of("y", [values], joined)
    assert part.name == "y"
    np.testing.assert_array_equal(part.of(values), values)


def test_runs_of_other_shapes_have_parts_too() -> None:
    runs = [head(), head()[:, :, :20]]
    assert [part.name for part in parts_of("y", runs, {"y"})] == ["y[:, :4]", "y[:, 4:]"]
    assert len(parts_of("y", [head(), head()[:, :50]], {"y"})) == 1


def test_scores_are_not_hidden_by_boxes() -> None:
    wanted = head()
    given = wanted.copy()
    given[:, 4:] = 0
    assert output_errors([[wanted]], [[given]], ["y"])["y"] > 60
    errors = output_errors([[wanted]], [[given]], ["y"], {"y"})
    assert errors["y[:, :4]"] == np.inf
    assert errors["y[:, 4:]"] == pytest.approx(0)


def test_a_concat_is_found_behind_operators_that_move_values() -> None:
    nodes = [
        node("Concat", ["x", "x"], ["a"], axis=1),
        node("Transpose", ["a"], ["b"], perm=[0, 2, 1]),
        node("Identity", ["b"], ["y"]),
    ]
    model = build(nodes, {}, [1, 3, 8], output_shape=None)
    assert joined_outputs(model.graph) == {"y"}
    relu = build([*nodes[:2], node("Relu", ["b"], ["y"])], {}, [1, 3, 8], output_shape=None)
    assert joined_outputs(relu.graph) == frozenset()
