"""SmoothQuant folds its factors into a LayerNormalization, and the written file gains from it."""

import numpy as np

from converter import convert, find_recipe
from passes.scale_migration.smoothquant import SmoothQuant
from tests.support.graphs import array, build, node
from tests.support.networks import decibels


def test_outliers_behind_a_layer_normalization_are_smoothed() -> None:
    outliers = np.ones(16, np.float32)
    outliers[[3, 7]] = 40  # as in trained transformers: large in the activations, small in the weights that read them
    nodes = [
        node("LayerNormalization", ["x", "gamma", "beta"], ["n"], name="norm"),
        node("MatMul", ["n", "a.w"], ["a"], name="a"),
        node("Relu", ["a"], ["r"], name="relu"),
        node("MatMul", ["r", "b.w"], ["y"], name="b"),
    ]
    shift: np.ndarray = array(16) * outliers
    weight: np.ndarray = array(16, 24) / outliers[:, None]
    constants = {"gamma": outliers, "beta": shift, "a.w": weight, "b.w": array(24, 10)}
    model = build(nodes, constants, ("N", 4, 16), opset=18)
    data, unseen = array(32, 4, 16, seed=1), array(32, 4, 16, seed=2)
    recipe = find_recipe("int8")
    plain = decibels(convert(model, data, recipe=recipe), unseen)
    assert decibels(convert(model, data, recipe=recipe.with_pass(SmoothQuant())), unseen) > plain + 10
