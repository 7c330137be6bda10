"""Accuracy of pretrained models on real images. Without the shared data beside the repository, it is skipped.

The bars are those of the benchmarks. Road signs are a second kind of network and of images.
"""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.accuracy import accuracy_losses
from benchmarks.bar import Bar
from benchmarks.shared_data import RESNET20, ROAD_SIGNS, MissingData, Pretrained
from converter import Recipe, find_recipe
from passes.base import CorrectionPass
from passes.weights.batchnorm_reestimation import ReestimateBatchnorm
from passes.weights.bias_correction import BiasCorrection
from passes.weights.gptq import Gptq
from passes.weights.rtn import Rtn

pytest.importorskip("torch")
pytestmark = pytest.mark.slow


def no_progress(what: str, done: int, total: int) -> None:
    """Ignore the progress."""


def one_sweep(name: str) -> Recipe:
    """A recipe with GPTQ's sweep alone, without the asymmetric target before it and the descent after it.

    These two multiply the time of a layer with 4,608 inputs. The bar has to hold without them too.
    """
    recipe = find_recipe(name)
    return replace(
        recipe,
        passes=tuple(
            replace(step, asymmetric_target=False, refine=0) if isinstance(step, Gptq) else step
            for step in recipe.passes
        ),
    )


def losses(pretrained: Pretrained, limits: list[tuple[Recipe, float]], calibrate: int, evaluate: int) -> list[Bar]:
    """Measure the points of top-1 that each recipe loses on the first ``evaluate`` images."""
    try:
        model = pretrained.model()
        calibration, evaluation = pretrained.images(model, calibrate)
    except MissingData as reason:
        pytest.skip(str(reason))
    unseen = evaluation.select(np.arange(min(evaluate, len(evaluation))))
    return list(accuracy_losses(pretrained.factory, model, calibration, unseen, limits, no_progress))


def test_resnet20_on_cifar10() -> None:
    for bar in losses(RESNET20, [(find_recipe("int8"), 0.2), (find_recipe("int4"), 0.5)], 512, 5000):
        assert bar.holds, f"{bar.what}: {bar.measured:.2f} {bar.unit} ({bar.note})"


def test_resnet18_on_road_signs() -> None:
    for bar in losses(ROAD_SIGNS, [(find_recipe("int8"), 0.5), (one_sweep("int4"), 0.5)], 128, 2000):
        assert bar.holds, f"{bar.what}: {bar.measured:.2f} {bar.unit} ({bar.note})"


def test_corrections_improve_round_to_nearest_at_3_bits() -> None:
    def recipe(name: str, *corrections: CorrectionPass) -> Recipe:
        steps = tuple(Rtn(bits=3) if isinstance(step, Gptq) else step for step in find_recipe("int4").passes)
        return replace(find_recipe("int4"), name=name, passes=(*steps, *corrections))

    recipes = [recipe("plain"), recipe("bias", BiasCorrection()), recipe("statistics", ReestimateBatchnorm())]
    plain, bias, statistics = losses(RESNET20, [(one, 100.0) for one in recipes], 128, 1000)
    assert plain.measured > 30
    assert bias.measured < plain.measured  # 3 points, on 5,000 images
    assert statistics.measured < plain.measured - 25  # 41 points
