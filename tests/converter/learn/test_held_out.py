"""The images that judge are nobody else's."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from converter import convert
from converter.data.preprocess import Preprocess
from converter.learn.held_out import hold_out
from converter.pipeline.images import Images, open_data
from converter.recipes.recipe import Recipe
from passes.activations.activation_ranges import ActivationRanges
from passes.weights.gptq import Gptq
from passes.weights.learned_rounding import LearnedRounding
from passes.weights.qat import Qat
from tests.support.networks import images, resnet, run

X = images(24, 3, 12, 12)


def rows(data: Any) -> NDArray[np.float32]:
    return np.concatenate([next(iter(batch.feeds.values()))[: batch.count] for batch in data.batches(16)])


@pytest.mark.parametrize(("count", "share", "expected"), [(24, 0.25, 6), (24, 0.001, 1), (2, 0.9, 1), (10, 0.99, 9)])
def test_both_sides_together_are_all(count: int, share: float, expected: int) -> None:
    found = hold_out(count, share, 3)
    assert len(found.judge) == expected
    assert sorted([*found.train, *found.judge]) == list(range(count))
    np.testing.assert_array_equal(found.judge, hold_out(count, share, 3).judge)


def opened(recipe: Recipe, training: Any = None, calibration: Any = X) -> Images:
    return open_data(calibration, None, training, resnet(), recipe, Preprocess())


@pytest.mark.parametrize("judging", [LearnedRounding(held_out=0.25), Qat(held_out=0.25)])
def test_other_passes_get_the_rest(judging: LearnedRounding | Qat) -> None:
    found = opened(Recipe("learned", "", (Gptq(bits=4), judging), seed=7))
    np.testing.assert_array_equal(rows(found.shown_to(Gptq())), X[hold_out(24, 0.25, 7).train])
    np.testing.assert_array_equal(rows(found.shown_to(judging)), X)


def test_what_one_judges_by_no_other_sees() -> None:
    recipe = Recipe("both", "", (Gptq(bits=4), LearnedRounding(held_out=0.25), Qat(held_out=0.25)), seed=7)
    judges = {X[row].tobytes() for row in hold_out(24, 0.25, 7).judge}
    found = opened(recipe)
    assert not judges & {image.tobytes() for image in rows(found.shown_to(Gptq()))}
    apart = opened(recipe, training=images(24, 3, 12, 12, seed=5))
    np.testing.assert_array_equal(rows(apart.shown_to(Gptq())), X[hold_out(24, 0.25, 7).train])


def test_without_one_pass_the_others_still_hold_out() -> None:
    first, second = LearnedRounding(held_out=0.25), LearnedRounding(held_out=0.5)
    found = opened(Recipe("two", "", (Gptq(bits=4), first, second), seed=7))
    left = found.held_out_by((Gptq(bits=4), second), 7)
    for step in (ActivationRanges(), Gptq()):
        np.testing.assert_array_equal(rows(left.shown_to(step)), X[hold_out(24, 0.5, 7).train])
        np.testing.assert_array_equal(rows(found.held_out_by((Gptq(bits=4),), 7).shown_to(step)), X)
    np.testing.assert_array_equal(rows(left.shown_to(second)), X)


def test_without_a_judge_all_is_everybodys() -> None:
    found = opened(Recipe("plain", "", (Gptq(bits=4),)))
    np.testing.assert_array_equal(rows(found.shown_to(Gptq())), X)


def test_training_images_that_do_not_judge_calibrate() -> None:
    recipe = Recipe("trained", "", (Gptq(bits=4), Qat(held_out=0.25)), seed=7, limit=6)
    found = opened(recipe, training=X, calibration=None)
    np.testing.assert_array_equal(rows(found.shown_to(Qat())), X)
    learnable = {image.tobytes() for image in X[hold_out(24, 0.25, 7).train]}
    calibrating = rows(found.shown_to(Gptq()))
    assert len(calibrating) == 6
    assert all(image.tobytes() in learnable for image in calibrating)


def test_gptq_has_not_seen_them() -> None:
    """With the judging images replaced by others, the passes before give the same codes."""
    few = X[:15]  # of more images, some judge the file
    judge = hold_out(len(few), 0.25, 0).judge
    other = few.copy()
    other[judge] = images(len(judge), 3, 12, 12, seed=9) * 5
    steps = (ActivationRanges(), Gptq(bits=4), LearnedRounding(held_out=0.25, steps=1, move_share=0, bias_rate=0))
    recipe = Recipe("frozen", "", steps)
    first, second = (convert(resnet(), data, recipe=recipe) for data in (few, other))
    for one, two in zip(first.passes[1].changed.values(), second.passes[1].changed.values(), strict=True):
        assert (one.before_db, one.after_db) == (two.before_db, two.after_db)


def test_what_learning_held_out_is_used_where_it_gains_nothing() -> None:
    """The file is then that of the recipe without learning, on all images."""
    nothing = LearnedRounding(held_out=0.25, steps=1, move_share=0, bias_rate=0, scale_rate=0)
    steps = (ActivationRanges(), Gptq(bits=4))
    plain, learned = (convert(resnet(), X, recipe=Recipe("r", "", passes)) for passes in (steps, (*steps, nothing)))
    np.testing.assert_array_equal(run(learned.model, X)[0], run(plain.model, X)[0])
    assert [report.name for report in learned.passes] == ["activation_ranges", "gptq", "learned_rounding"]
    assert "learning gained nothing, so the other passes ran again on all images" in learned.passes[-1].notes
    assert not learned.passes[-1].changed
    assert all("gained nothing" in why for why in learned.passes[-1].skipped.values())
