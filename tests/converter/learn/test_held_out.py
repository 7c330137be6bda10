"""The images that judge are nobody else's."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from converter import convert
from converter.learn.held_out import hold_out, without_held_out
from converter.recipe import Pass, Recipe
from passes.activation_ranges import ActivationRanges
from passes.gptq import Gptq
from passes.learned_rounding import LearnedRounding
from tests.converter.networks import dataset, images, prepared, resnet

X = images(24, 3, 12, 12)
LEARNED: tuple[Pass, ...] = (Gptq(bits=4), LearnedRounding(held_out=0.25))


def rows(data: Any) -> NDArray[np.float32]:
    return np.concatenate([next(iter(batch.feeds.values()))[: batch.count] for batch in data.batches(16)])


@pytest.mark.parametrize(("count", "share", "expected"), [(24, 0.25, 6), (24, 0.001, 1), (2, 0.9, 1), (10, 0.99, 9)])
def test_both_sides_together_are_all(count: int, share: float, expected: int) -> None:
    found = hold_out(count, share, 3)
    assert len(found.judge) == expected
    assert sorted([*found.train, *found.judge]) == list(range(count))
    np.testing.assert_array_equal(found.judge, hold_out(count, share, 3).judge)


def test_other_passes_get_the_rest() -> None:
    data = dataset(prepared(resnet()), X)
    fitted = without_held_out(data, LEARNED, 7)
    assert fitted is not None
    np.testing.assert_array_equal(rows(fitted), X[hold_out(24, 0.25, 7).train])
    assert without_held_out(data, (Gptq(bits=4),), 7) is data
    assert without_held_out(None, LEARNED, 7) is None


def test_gptq_has_not_seen_them() -> None:
    """With the judging images replaced by others, the passes before give the same codes."""
    judge = hold_out(24, 0.25, 0).judge
    other = X.copy()
    other[judge] = images(6, 3, 12, 12, seed=9) * 5
    steps = (ActivationRanges(), Gptq(bits=4), LearnedRounding(held_out=0.25, steps=1, move_share=0, bias_rate=0))
    recipe = Recipe("frozen", "", steps)
    first, second = (convert(resnet(), data, recipe=recipe) for data in (X, other))
    for one, two in zip(first.passes[1].changed.values(), second.passes[1].changed.values(), strict=True):
        assert (one.before_db, one.after_db) == (two.before_db, two.after_db)
